//! Receipt handles: opaque to clients; to the queue, the name of one receive of one message.

use sha2::{Digest, Sha256};

use crate::hex::hex;

/// One receive of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    /// The message's number in its queue.
    pub message: u64,
    /// The number of the message's receive, from 1.
    pub receive: u32,
}

impl Receipt {
    /// The receipt handle, which only the queue with this key can parse.
    pub(super) fn handle(self, key: u64) -> String {
        format!("{:016x}{:08x}{}", self.message, self.receive, self.mark(key))
    }

    /// Parses a receipt handle of this queue; `None` for anything else.
    pub(super) fn parse(receipt_handle: &str, key: u64) -> Option<Self> {
        let (message, rest) = receipt_handle.split_at_checked(16)?;
        let (receive, mark) = rest.split_at_checked(8)?;
        let message = u64::from_str_radix(message, 16).ok()?;
        let receive = u32::from_str_radix(receive, 16).ok()?;
        let receipt = Self { message, receive };
        (receipt.mark(key) == mark).then_some(receipt)
    }

    /// Ties a receipt handle to its queue, so that a damaged one, or another queue's, is detected.
    fn mark(self, key: u64) -> String {
        let digest = Sha256::new()
            .chain_update(key.to_be_bytes())
            .chain_update(self.message.to_be_bytes())
            .chain_update(self.receive.to_be_bytes())
            .finalize();
        hex(&digest[..16])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIPT: Receipt = Receipt { message: 7, receive: 2 };

    #[test]
    fn a_handle_reads_back_as_the_receive_it_was_given_for() {
        assert_eq!(Receipt::parse(&RECEIPT.handle(5), 5), Some(RECEIPT));
    }

    #[test]
    fn a_handle_of_another_queue_is_not_read() {
        assert_eq!(Receipt::parse(&RECEIPT.handle(5), 6), None);
    }

    #[test]
    fn a_mangled_handle_is_not_read() {
        let receipt_handle = RECEIPT.handle(5);
        let other = Receipt { receive: 3, ..RECEIPT }.handle(5);
        let spliced = format!("{}{}", &other[..24], &receipt_handle[24..]);
        for wrong in [
            "",
            "x",
            &receipt_handle[..30],
            &format!("{receipt_handle}0"),
            &spliced,
            &"ü".repeat(28),
        ] {
            assert_eq!(Receipt::parse(wrong, 5), None, "{wrong}");
        }
    }
}
