//! `sweep explain`.

use proto::v1::{ExplainRequest, ExplainResponse};

use crate::cli::Format;
use crate::connection::Connection;
use crate::error::CliError;
use crate::records::ExplainRecord;
use crate::{format, output};

pub(crate) async fn explain(
    mut connection: Connection,
    wanted: &str,
    format: Format,
) -> Result<(), CliError> {
    // Ids of sweeps are words.
    let request = match wanted.parse() {
        Ok(trial_id) => ExplainRequest { trial_id, ..ExplainRequest::default() },
        Err(_) => ExplainRequest { sweep: wanted.to_owned(), ..ExplainRequest::default() },
    };
    let what = if request.sweep.is_empty() {
        format!("trial {wanted}")
    } else {
        format!("the next trial of {wanted}")
    };
    let reply = connection.client.explain(request).await;
    let reply = reply.map_err(|status| connection.explain(&status))?.into_inner();
    if format == Format::Json {
        return output::print_json(&ExplainRecord::from(reply));
    }
    output::print(&page(&what, &reply))
}

fn page(what: &str, reply: &ExplainResponse) -> String {
    let mut text = format!("{what} is {}\n", format::trial_state(reply.state()));
    for reason in &reply.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    for verdict in &reply.workers {
        let reasons = verdict.reasons.join("; ");
        let reasons = if reasons.is_empty() { "could take it" } else { &reasons };
        text.push_str(&format!("worker {}: {reasons}\n", verdict.worker));
    }
    text
}

#[cfg(test)]
mod tests {
    use proto::v1::{TrialState, WorkerVerdict};

    use super::*;

    #[test]
    fn reasons_are_sentences_and_workers_lines() {
        let verdict = |worker: &str, reasons: &[&str]| WorkerVerdict {
            worker: worker.to_owned(),
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
        };
        let reply = ExplainResponse {
            state: TrialState::Queued.into(),
            reasons: vec!["12 trials of its sweep are before it".to_owned()],
            workers: vec![
                verdict("gpu-1", &[]),
                verdict("gpu-2", &["lacks task vtab/dtd", "has no free slot (1 of 1 taken)"]),
            ],
        };
        let expected = "trial 7 is queued\n  12 trials of its sweep are before it\nworker gpu-1: could take it\n\
                        worker gpu-2: lacks task vtab/dtd; has no free slot (1 of 1 taken)\n";
        assert_eq!(page("trial 7", &reply), expected);
    }
}
