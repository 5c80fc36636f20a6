//! The service `Workers`.

use std::time::Duration;

use proto::v1;
use proto::v1::workers_server::Workers;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{POLL, Service, decode, encode};
use crate::store::ops::{Drain, Finish, Lease, Leased, Register, Renew, Report};
use crate::store::reads::HasWork;
use crate::store::rows::AssignmentRow;
use crate::trial::Millis;

const MAX_WAIT: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl Workers for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let request = request.into_inner();
        let register = Register {
            instance: decode::name("instance", request.instance)?,
            name: decode::worker_name(request.name)?,
            offer: decode::offer(request.capabilities.unwrap_or_default())?,
            slots: decode::slots(request.slots)?,
        };
        let worker = self.store.write(register).await?;
        tracing::info!(worker = worker.id, slots = worker.slots, "worker registered");
        Ok(Response::new(v1::RegisterResponse {
            worker_id: worker.id,
            lease_ttl_ms: self.lease_ttl.as_millis() as u64,
            report_every_ms: self.report_every.as_millis() as u64,
        }))
    }

    async fn lease(&self, request: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let request = request.into_inner();
        let lease = Lease {
            worker: decode::worker_id(request.worker_id)?,
            request: decode::name("request", request.request)?,
            max: request.max,
            ttl: self.ttl(),
            warm: decode::warm(request.warm)?,
            may_ask: true,
        };
        let wait = Duration::from_millis(u64::from(request.wait_ms)).min(MAX_WAIT);
        let leased = self.lease_or_wait(lease, wait).await?;
        let assignment = |row: &AssignmentRow| encode::assignment(row.clone(), &leased);
        let assignments = leased.assignments.iter().map(assignment).collect::<Result<_, _>>()?;
        Ok(Response::new(v1::LeaseResponse { assignments }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let request = request.into_inner();
        let renew = Renew {
            worker: decode::worker_id(request.worker_id)?,
            tokens: decode::tokens(request.tokens)?,
            ttl: self.ttl(),
        };
        let (held, lost) = self.store.write(renew).await?;
        Ok(Response::new(v1::RenewResponse {
            held: held.into_iter().map(encode::token).collect(),
            lost: lost.into_iter().map(encode::lost).collect(),
        }))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        let report = Report {
            worker: decode::worker_id(request.worker_id)?,
            progress: decode::progress(request.progress)?,
        };
        let lost = self.store.write(report).await?;
        Ok(Response::new(v1::ReportResponse { lost: lost.into_iter().map(encode::lost).collect() }))
    }

    async fn finish(
        &self,
        request: Request<v1::FinishRequest>,
    ) -> Result<Response<v1::FinishResponse>, Status> {
        let request = request.into_inner();
        let finish =
            Finish { worker: decode::worker_id(request.worker_id)?, ends: decode::ends(request.ends)? };
        let tokens: Vec<_> = finish.ends.iter().map(|end| end.token).collect();
        let verdicts = self.store.write(finish).await?;
        let verdicts = tokens.into_iter().zip(verdicts);
        Ok(Response::new(v1::FinishResponse {
            verdicts: verdicts.map(|(token, verdict)| encode::verdict(token, verdict)).collect(),
        }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let worker = decode::worker_id(request.into_inner().worker_id)?;
        tracing::info!(%worker, "worker drains");
        self.store.write(Drain { worker }).await?;
        Ok(Response::new(v1::DrainResponse {}))
    }
}

impl Service {
    fn ttl(&self) -> Millis {
        self.lease_ttl.as_millis() as Millis
    }

    /// Leases at once, or as soon as there is something to lease.
    async fn lease_or_wait(&self, lease: Lease, wait: Duration) -> Result<Leased, Status> {
        let deadline = Instant::now() + wait;
        let mut changes = self.store.changes();
        loop {
            changes.mark_unchanged();
            let leased = self.store.lease(&lease).await?;
            if !leased.assignments.is_empty() || leased.is_repetition || lease.max == 0 {
                return Ok(leased);
            }
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return Ok(Leased::default()),
                    () = self.shutdown.cancelled() => return Ok(Leased::default()),
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
                let is_open = self.gate.is_open(&self.store, Instant::now()).await?;
                if is_open && self.store.read(HasWork { worker: lease.worker.clone() }).await? {
                    break;
                }
            }
        }
    }
}
