//! Trouble on purpose, between a coordinator and whoever calls it, for tests of those callers. What may happen on a real
//! network happens here at a rate: calls that never arrive, answers that are late or lost, calls that arrive twice.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::{Service, ServiceExt};

use crate::server::MAX_REQUEST;

/// How long a call without an answer takes to be given up.
const TIMEOUT: Duration = Duration::from_millis(200);

/// What may become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It never arrived.
    Unavailable,
    /// It never arrived, and nobody said so.
    Timeout,
    /// It was done, and the answer was lost.
    ExecutedThenTimeout,
    /// It arrived twice, and the second answer is heard.
    Duplicate,
}

const FAULTS: [Fault; 4] = [Fault::Unavailable, Fault::Timeout, Fault::ExecutedThenTimeout, Fault::Duplicate];

/// How often calls meet a fault: `0.05`, or `0.05:SEED` for the same order of faults each time.
#[derive(Debug, Clone)]
pub struct Faults {
    rate: f64,
    dice: Arc<Mutex<StdRng>>,
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rate, seed) = text.split_once(':').map_or((text, None), |(rate, seed)| (rate, Some(seed)));
        let rate = rate.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
        let seed = seed.map(|seed| seed.parse().map_err(|_| "a seed is a whole number")).transpose()?;
        let dice = seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        let rate = rate.ok_or("a rate is a number from 0 to 1, such as 0.05")?;
        Ok(Self { rate, dice: Arc::new(Mutex::new(dice)) })
    }
}

impl Faults {
    fn throw(&self) -> Option<Fault> {
        let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
        dice.random_bool(self.rate).then(|| FAULTS[dice.random_range(0..FAULTS.len())])
    }

    /// The same service, behind a bad network.
    pub(crate) fn around<S>(&self, service: S) -> Faulty<S> {
        Faulty { service, faults: self.clone() }
    }
}

/// A service behind a bad network.
#[derive(Debug, Clone)]
pub(crate) struct Faulty<S> {
    service: S,
    faults: Faults,
}

impl<S: NamedService> NamedService for Faulty<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (service, fault) = (self.service.clone(), self.faults.throw());
        if let Some(fault) = fault {
            tracing::debug!(call = request.uri().path(), ?fault, "a fault on purpose");
        }
        Box::pin(suffer(service, request, fault))
    }
}

async fn suffer<S>(
    service: S,
    request: Request<Body>,
    fault: Option<Fault>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send,
    S::Future: Send,
{
    match fault {
        None => service.oneshot(request).await,
        Some(Fault::Unavailable) => Ok(Status::unavailable("a fault on purpose").into_http()),
        Some(Fault::Timeout) => {
            tokio::time::sleep(TIMEOUT).await;
            Ok(Status::deadline_exceeded("a fault on purpose").into_http())
        }
        Some(Fault::ExecutedThenTimeout) => {
            drop(service.oneshot(request).await?);
            Ok(Status::deadline_exceeded("a fault on purpose").into_http())
        }
        Some(Fault::Duplicate) => {
            let (parts, body) = request.into_parts();
            let Ok(body) = Limited::new(body, MAX_REQUEST).collect().await else {
                return Ok(Status::unavailable("the call broke off").into_http());
            };
            let body = body.to_bytes();
            let again = || Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())));
            drop(service.clone().oneshot(again()).await?);
            service.oneshot(again()).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_faults_and_the_rate_is_kept() {
        let thrown = |text: &str| -> Vec<Option<Fault>> {
            let faults: Faults = text.parse().unwrap();
            (0..1_000).map(|_| faults.throw()).collect()
        };
        assert_eq!(thrown("0.3:7"), thrown("0.3:7"));
        assert_ne!(thrown("0.3:7"), thrown("0.3:8"));
        let some = thrown("0.3:7").iter().flatten().count();
        assert!((200..400).contains(&some), "{some}");
        assert!(thrown("0").iter().all(Option::is_none) && thrown("1").iter().all(Option::is_some));
        for fault in FAULTS {
            assert!(thrown("1:1").contains(&Some(fault)), "{fault:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, named) in [("", "a rate"), ("5%", "a rate"), ("1.5", "a rate"), ("0.5:x", "a seed")] {
            assert!(text.parse::<Faults>().unwrap_err().contains(named), "{text}");
        }
    }

    /// What the service saw, and what the caller heard.
    async fn call(fault: Option<Fault>) -> (u32, bool) {
        let seen = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let counter = Arc::clone(&counter);
            async move {
                assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body".as_bytes());
                *counter.lock().unwrap() += 1;
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let request = Request::new(Body::new(Full::from("body")));
        let answer = suffer(service, request, fault).await.unwrap();
        let seen = *seen.lock().unwrap();
        (seen, !answer.headers().contains_key("grpc-status"))
    }

    #[tokio::test]
    async fn each_fault_is_what_its_name_says() {
        assert_eq!(call(None).await, (1, true));
        assert_eq!(call(Some(Fault::Unavailable)).await, (0, false));
        assert_eq!(call(Some(Fault::Timeout)).await, (0, false));
        assert_eq!(call(Some(Fault::ExecutedThenTimeout)).await, (1, false));
        assert_eq!(call(Some(Fault::Duplicate)).await, (2, true));
    }
}
