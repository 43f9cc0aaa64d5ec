//! Reports of messages to the moderators of the service.

use carillon_proto::pb::client::{Recipient, Report, ReportReason};

use crate::{Client, FetchError, fetches::Query};

impl Client {
    /// Reports messages of others to the moderators of the service, who see them as they are now, whatever becomes of them later. `seqs`: where 1
    /// to 10 messages of the conversation are in the own inbox, or in the timeline of the group. `text`: at most 1,000 bytes. Nobody else is told.
    /// Returns when the report is stored for certain.
    ///
    /// ```no_run
    /// # async fn example(client: carillon_client::Client) -> Result<(), carillon_client::FetchError> {
    /// use carillon_client::Client;
    /// use carillon_proto::pb::client::ReportReason;
    ///
    /// client.report(Client::user("mallory"), vec![17, 18], ReportReason::Spam, "the third time today").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn report(
        &self,
        conversation: Recipient,
        seqs: Vec<u64>,
        reason: ReportReason,
        text: &str,
    ) -> Result<(), FetchError> {
        self.report_as(self.next_id(), conversation, seqs, reason, text).await
    }

    /// Reports with an id chosen by the application, which may have used it before for the same report: it is one.
    pub async fn report_as(
        &self,
        client_id: String,
        conversation: Recipient,
        seqs: Vec<u64>,
        reason: ReportReason,
        text: &str,
    ) -> Result<(), FetchError> {
        let (conversation, reason, text) = (Some(conversation), reason.into(), text.to_owned());
        self.done(Query::Report(Report { request: 0, client_id, conversation, seqs, reason, text })).await
    }
}
