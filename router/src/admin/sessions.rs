//! Administration of sessions.

use carillon_proto::{
    ConnectionHandle, LeaseId, UserId,
    pb::{
        admin::{
            EndSessionsReply, EndSessionsRequest, ListSessionsReply, ListSessionsRequest, SessionInfo,
            end_sessions_request::Which,
        },
        store::{Account, EndSessions, ListSessions, Session, directory_command, session::Protocol, store_request::Op},
    },
    sessions,
};
use tonic::Status;

use super::{Admin, PAGE, failed, scope::Scope, user_id};
use crate::{store::StoreAnswer, topology::Topology};

impl Admin {
    /// Lists of the sessions of all users are the operator's.
    pub(super) async fn sessions(
        &self,
        scope: &Scope,
        request: ListSessionsRequest,
    ) -> Result<ListSessionsReply, Status> {
        let ListSessionsRequest { user, after_user, after_device, limit } = request;
        let topology = self.topology.borrow().clone();
        if !user.is_empty() {
            scope.check(&user)?;
            let user = user_id(&user)?;
            let found = self.read(&user).await?;
            let Some(account) = found.account else {
                return Err(Status::not_found(format!("there is no user {user}")));
            };
            let sessions = found.sessions.iter().filter_map(|session| session_info(&topology, Some(&account), session));
            return Ok(ListSessionsReply { sessions: sessions.collect(), ..ListSessionsReply::default() });
        }
        if *scope != Scope::Operator {
            return Err(Status::permission_denied("a domain's administrator names a user whose sessions are listed"));
        }
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let mut found = Vec::new();
        let mut more = false;
        // Each shard returns its first rows; the first rows of all shards are among these.
        for shard in self.directory_shards()? {
            let (after_user, after_device) = (after_user.clone(), after_device.clone());
            let list = ListSessions { after_user, after_device, limit, ..ListSessions::default() };
            match self.call(shard, Op::ListSessions(list)).await {
                Ok(StoreAnswer::SessionList(list)) => {
                    more |= !list.next_user.is_empty();
                    found.extend(list.sessions);
                }
                other => return Err(failed(other)),
            }
        }
        found.sort_unstable_by(|a, b| (&a.user, &a.device).cmp(&(&b.user, &b.device)));
        more |= found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(|last| (last.user.clone(), last.device.clone()));
        let (next_user, next_device) = next.unwrap_or_default();
        let sessions = found.iter().filter_map(|session| session_info(&topology, None, session)).collect();
        Ok(ListSessionsReply { sessions, next_user, next_device })
    }

    pub(super) async fn end(&self, scope: &Scope, request: EndSessionsRequest) -> Result<EndSessionsReply, Status> {
        let (user, handle) = match request.which {
            None => return Err(Status::invalid_argument("neither a handle nor a user is named")),
            Some(Which::User(user)) => {
                scope.check(&user)?;
                (user_id(&user)?, None)
            }
            Some(Which::Handle(handle)) => {
                let handle: ConnectionHandle =
                    handle.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
                let user = self.user_of(handle).await?;
                if !scope.has(user.as_str()) {
                    return Err(no_session(handle));
                }
                (user, Some(handle))
            }
        };
        let (lease, connection) = handle.map_or((0, 0), |handle| (handle.lease.0, handle.connection));
        let end = EndSessions { user: user.as_str().to_owned(), lease, connection };
        let changed = self.change(&user, directory_command::Op::EndSessions(end)).await?;
        let account = changed.account.unwrap_or_default();
        // The connections are closed even if a shard does not answer.
        let fence = async {
            match handle {
                None => self.end_sender_if_read(&account).await,
                Some(_) => Ok(()),
            }
        };
        let (fenced, ended) = tokio::join!(fence, self.put_out(&user, &account, changed.over));
        fenced?;
        Ok(EndSessionsReply { ended: Some(ended), user: user.as_str().to_owned() })
    }

    /// The user of the session with this handle. Scans all sessions, because they are stored by user.
    async fn user_of(&self, handle: ConnectionHandle) -> Result<UserId, Status> {
        let ConnectionHandle { lease: LeaseId(lease), connection } = handle;
        for shard in self.directory_shards()? {
            let mut list = ListSessions { limit: PAGE, lease, connection, ..ListSessions::default() };
            loop {
                let found = match self.call(shard, Op::ListSessions(list.clone())).await {
                    Ok(StoreAnswer::SessionList(found)) => found,
                    other => return Err(failed(other)),
                };
                if let Some(session) = found.sessions.first() {
                    return user_id(&session.user);
                }
                if found.next_user.is_empty() {
                    break;
                }
                (list.after_user, list.after_device) = (found.next_user, found.next_device);
            }
        }
        Err(no_session(handle))
    }
}

fn no_session(handle: ConnectionHandle) -> Status {
    Status::not_found(format!("there is no session {handle}"))
}

/// `None`: its gateway has ended, and the session with it.
pub(super) fn session_info(topology: &Topology, account: Option<&Account>, session: &Session) -> Option<SessionInfo> {
    (!topology.has_ended(LeaseId(session.lease))).then(|| info(account, session))
}

/// Also of a session that has ended with its gateway.
pub(super) fn info(account: Option<&Account>, session: &Session) -> SessionInfo {
    let why = match account {
        Some(account) => sessions::over(account, session),
        None => session.ended.then_some(carillon_proto::pb::link::evict::Why::Operator),
    };
    let protocol = match session.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Websocket => "websocket",
        Protocol::Grpc => "grpc",
        Protocol::Xmpp => "xmpp",
        Protocol::Unspecified => "other",
    };
    let handle = ConnectionHandle { lease: LeaseId(session.lease), connection: session.connection };
    SessionInfo {
        user: session.user.clone(),
        device: session.device.clone(),
        handle: handle.to_string(),
        protocol: protocol.to_owned(),
        since_ms: session.since_ms,
        by_token: session.by_token,
        token_id: session.token_id.clone(),
        over: why.map(|why| sessions::told(why).to_owned()).unwrap_or_default(),
    }
}
