//! Reports, as asks from frames.

use carillon_proto::pb::client::Report;

use crate::conversation::{Ask, ReportAsk};

impl From<Report> for Ask {
    fn from(Report { request, client_id, conversation, seqs, reason, text }: Report) -> Self {
        Self::Report(Box::new(ReportAsk { request, client_id, conversation, seqs, reason, text }))
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::{client::ReportReason, store};

    #[test]
    fn reasons_have_the_numbers_that_the_store_knows() {
        for (reason, stored) in [
            (ReportReason::Unspecified, store::ReportReason::Unspecified),
            (ReportReason::Spam, store::ReportReason::Spam),
            (ReportReason::Abuse, store::ReportReason::Abuse),
            (ReportReason::Illegal, store::ReportReason::Illegal),
            (ReportReason::Other, store::ReportReason::Other),
        ] {
            assert_eq!(i32::from(reason), i32::from(stored));
        }
        assert!(ReportReason::try_from(5).is_err() && store::ReportReason::try_from(5).is_err());
    }
}
