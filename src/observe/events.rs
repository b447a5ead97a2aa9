//! The codes of what goes wrong: `CBD101` names the condition that the event `queue_poll_failed`
//! reports, for people who look it up (`callbackd explain`).
//!
//! A code is never used for something else, also after its condition is gone. Those below 100 are
//! about the start and the commands, then come queues, SageMaker, steps, programs, the ledger, what
//! the worker runs on, and from 900 on bugs.

use std::fmt;

/// A condition's code, shown as `CBD` and three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CBD{:03}", self.0)
    }
}

/// The event of a line that a library or a handler in Rust writes, whatever its level.
pub const OTHER_CRATE: &str = "other_crate";

/// The code of an event, if it is one that warns of something.
#[must_use]
pub fn code_of(event: &str) -> Option<Code> {
    CODES.iter().find(|(_, name)| *name == event).map(|(code, _)| Code(*code))
}

/// `text` with the code of `event` behind it, as a command's last words have it.
#[must_use]
pub fn coded(text: impl fmt::Display, event: &str) -> String {
    code_of(event).map_or_else(|| text.to_string(), |code| format!("{text} [{code}]"))
}

/// Each code with its event. An event whose lines are all below `warn` has none.
pub const CODES: &[(u16, &str)] = &[
    (1, "config_invalid"),
    (2, "config_doubtful"),
    (3, "reload_refused"),
    (4, "reload_needs_restart"),
    (5, "handler_unusable"),
    (6, "handler_doubtful"),
    (7, "status_server_open"),
    (8, "open_files_not_raised"),
    (9, "open_files_limited"),
    (10, "memory_readable"),
    (11, "ca_certificates_missing"),
    (12, "status_address_unusable"),
    (13, "region_missing"),
    (14, "fips_host_missing"),
    (15, "ca_bundle_unusable"),
    (16, "threads_refused"),
    (17, "output_not_written"),
    (18, "access_denied"),
    (19, "aws_misconfigured"),
    (20, "aws_unreachable"),
    (21, "credentials_missing"),
    (101, "queue_poll_failed"),
    (102, "memory_budget_used"),
    (103, "message_incomplete"),
    (104, "message_not_accepted"),
    (105, "message_refused"),
    (106, "step_not_accepted"),
    (107, "stop_not_confirmed"),
    (108, "messages_not_kept"),
    (109, "messages_not_released"),
    (110, "messages_not_deleted"),
    (111, "copies_not_sent"),
    (112, "copy_not_sent"),
    (113, "batch_refused"),
    (114, "messages_let_go"),
    (115, "messages_undeletable"),
    (116, "queue_paused"),
    (118, "orders_unreadable"),
    (119, "order_unreadable"),
    (120, "last_poll_unanswered"),
    (121, "messages_left_behind"),
    (122, "copy_not_rebuilt"),
    (201, "report_refused"),
    (202, "report_denied"),
    (203, "report_misdirected"),
    (204, "report_failed"),
    (205, "step_not_found"),
    (206, "status_not_returned"),
    (207, "execution_not_described"),
    (208, "steps_not_listed"),
    (209, "end_not_known"),
    (210, "step_answered_elsewhere"),
    (211, "credentials_not_renewed"),
    (212, "stop_watch_unanswered"),
    (301, "step_on_trial"),
    (302, "attempt_failed"),
    (303, "reason_shortened"),
    (304, "outputs_not_sent"),
    (305, "cleanup_failed"),
    (306, "cleanup_not_run"),
    (307, "run_interrupted"),
    (308, "leftovers_not_examined"),
    (309, "handler_impaired"),
    (310, "cleanup_impaired"),
    (311, "breaker_opened"),
    (312, "breaker_reopened"),
    (313, "queue_not_configured"),
    (314, "handler_not_configured"),
    (315, "step_resumed_without_message"),
    (316, "steps_without_message"),
    (317, "machine_suspended"),
    (318, "clock_set"),
    (319, "steps_released"),
    (330, "handler_paused"),
    (401, "output_cut"),
    (402, "program_killed"),
    (403, "output_held_open"),
    (404, "cgroup_not_created"),
    (405, "program_hangs"),
    (406, "process_unkillable"),
    (407, "program_starter_replaced"),
    (408, "leftovers_killed"),
    (409, "leftovers_hang"),
    (410, "left_checkpoint_ignored"),
    (411, "checkpoint_unfit"),
    (412, "checkpoint_withdrawn"),
    (413, "stop_file_not_written"),
    (414, "reason_unreadable"),
    (415, "checkpoint_left"),
    (416, "workspace_not_removed"),
    (417, "leftovers_not_removed"),
    (418, "cleanup_asked_again"),
    (501, "ledger_write_failed"),
    (502, "ledger_read_failed"),
    (503, "ledger_not_listed"),
    (504, "records_not_removed"),
    (505, "times_not_renewed"),
    (506, "lease_not_renewed"),
    (507, "lease_lost"),
    (508, "lease_not_ended"),
    (509, "owner_not_told"),
    (510, "worker_fenced"),
    (511, "ledger_exclusive"),
    (512, "record_unreadable"),
    (513, "ledger_failing"),
    (514, "table_not_checked"),
    (515, "table_time_missing"),
    (520, "ledger_in_use"),
    (521, "ledger_newer"),
    (522, "ledger_damaged"),
    (523, "ledger_unusable"),
    (524, "table_unusable"),
    (525, "ledger_older"),
    (526, "copy_not_written"),
    (601, "protection_unavailable"),
    (602, "protection_not_released"),
    (603, "protection_failed"),
    (604, "systemd_unavailable"),
    (605, "watchdog_withheld"),
    (606, "systemd_not_notified"),
    (607, "log_lines_dropped"),
    (608, "traces_not_exported"),
    (609, "traces_misconfigured"),
    (610, "endpoint_broke"),
    (611, "endpoint_accept_failed"),
    (612, "endpoint_connection_broke"),
    (613, "traces_not_built"),
    (620, "other_crate"),
    (630, "admin_socket_unavailable"),
    (631, "admin_peer_refused"),
    (632, "token_refused"),
    (633, "token_unusable"),
    (901, "worker_broken"),
    (902, "illegal_event"),
    (903, "permits_reused"),
    (904, "turn_lost"),
    (905, "ledger_broken"),
    (906, "panicked"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_no_event_has_two() {
        assert!(CODES.is_sorted_by(|one, next| one.0 < next.0));
        for (code, event) in CODES {
            assert_eq!(code_of(event), Some(Code(*code)), "{event}");
        }
    }

    #[test]
    fn a_commands_last_words_end_with_the_code_if_there_is_one() {
        assert_eq!(coded("in use", "ledger_in_use"), "in use [CBD520]");
        assert_eq!(coded("stopped", "step_ended"), "stopped");
    }
}
