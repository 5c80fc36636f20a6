//! Why a trainer died, and what that means for the attempt it was running. Pure.

use proto::v1::FailureClass;
use proto::v1::end::How;
use proto::v1::{Failure, Interruption};

/// What is known about a trainer that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) status: Status,
    /// Whether the kernel killed any process for memory while the attempt ran.
    pub(super) oom_killed: bool,
    /// The last lines that the trainer wrote to stderr.
    pub(super) stderr: Vec<String>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Exit(i32),
    Signal(i32),
    /// It could not even be started.
    NotStarted(String),
}

const SIGBUS: i32 = nix::libc::SIGBUS;
const SIGKILL: i32 = nix::libc::SIGKILL;

/// The longest message that goes to the coordinator, in bytes.
const MESSAGE_LIMIT: usize = 4096;

impl Death {
    /// How an attempt ends whose trainer died in this way.
    pub(super) fn verdict(&self) -> How {
        match self.status {
            Status::Signal(SIGKILL) if self.oom_killed => {
                failure(FailureClass::HostOom, "the kernel killed the trainer for want of memory".to_owned())
            }
            Status::Signal(SIGKILL) => {
                interruption("preempted", "the trainer was killed from outside".to_owned())
            }
            Status::Signal(SIGBUS) => failure(FailureClass::BadNode, self.describe()),
            _ => failure(FailureClass::CodeError, self.describe()),
        }
    }

    /// A sentence about the death, then the last lines of stderr.
    pub(super) fn describe(&self) -> String {
        let what = match &self.status {
            Status::Exit(code) => format!("the trainer exited with status {code}"),
            Status::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => format!("the trainer died of {signal}"),
                Err(_) => format!("the trainer died of signal {number}"),
            },
            Status::NotStarted(why) => format!("the trainer could not be started: {why}"),
        };
        if self.stderr.is_empty() {
            what
        } else {
            format!("{what}; its last words:\n{}", self.stderr.join("\n"))
        }
    }
}

pub(super) fn failure(class: FailureClass, message: String) -> How {
    How::Failure(Failure { class: class.into(), message: bounded(message) })
}

pub(super) fn interruption(cause: &str, message: String) -> How {
    How::Interruption(Interruption { cause: cause.to_owned(), message: bounded(message) })
}

/// Cuts the middle out: a message begins with what happened and ends with the innermost cause.
fn bounded(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let half = MESSAGE_LIMIT / 2 - 8;
    let head = message.floor_char_boundary(half);
    let tail = message.ceil_char_boundary(message.len() - half);
    format!("{}\n[…]\n{}", &message[..head], &message[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: Status, oom_killed: bool) -> How {
        Death { status, oom_killed, stderr: vec!["thread panicked".into(), "at vit.rs:3".into()] }.verdict()
    }

    fn class(how: &How) -> FailureClass {
        match how {
            How::Failure(failure) => failure.class(),
            other => panic!("not a failure: {other:?}"),
        }
    }

    #[test]
    fn a_kill_is_memory_only_when_the_kernel_says_so() {
        assert_eq!(class(&verdict(Status::Signal(SIGKILL), true)), FailureClass::HostOom);
        assert!(
            matches!(verdict(Status::Signal(SIGKILL), false), How::Interruption(i) if i.cause == "preempted")
        );
        assert_eq!(class(&verdict(Status::Signal(nix::libc::SIGSEGV), true)), FailureClass::CodeError);
    }

    #[test]
    fn other_deaths_are_failures_with_the_last_words() {
        assert_eq!(class(&verdict(Status::Signal(SIGBUS), false)), FailureClass::BadNode);
        let exit = verdict(Status::Exit(101), false);
        assert_eq!(class(&exit), FailureClass::CodeError);
        let How::Failure(failure) = exit else { unreachable!() };
        assert!(failure.message.contains("status 101"), "{}", failure.message);
        assert!(failure.message.ends_with("thread panicked\nat vit.rs:3"), "{}", failure.message);
        assert_eq!(class(&verdict(Status::Exit(0), false)), FailureClass::CodeError);
    }

    #[test]
    fn a_long_message_loses_its_middle() {
        let message = bounded(format!("begin{}end", "ü".repeat(10_000)));
        assert!(message.len() <= MESSAGE_LIMIT);
        assert!(message.starts_with("begin") && message.ends_with("end"));
    }
}
