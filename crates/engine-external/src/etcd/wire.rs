//! The messages of etcd's version 3 protocol, as far as they are needed. Names, numbers and meanings
//! are those of its published interface (`rpc.proto`, `kv.proto`); what is not listed is not sent, and is skipped
//! when it comes.

use std::fmt;

use bytes::Bytes;

/// Declares messages: `name: number type field, …`.
macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field:meta])* $member:ident: $kind:ty,)* })*) => {
        $(#[derive(Clone, PartialEq, ::prost::Message)]
        $(#[$doc])*
        pub struct $name { $($(#[$field])* pub $member: $kind,)* })*
    };
}

messages! {
    /// What every answer begins with.
    ResponseHeader {
        /// The store's revision when the answer was made; for a transaction that wrote, its own.
        #[prost(int64, tag = "3")] revision: i64,
    }
    /// One key.
    KeyValue {
        #[doc = "Its name."] #[prost(bytes = "bytes", tag = "1")] key: Bytes,
        #[doc = "The revision of its last write."] #[prost(int64, tag = "3")] mod_revision: i64,
        #[doc = "Writes since it was made; 0 when it does not exist."] #[prost(int64, tag = "4")] version: i64,
        #[doc = "What it holds."] #[prost(bytes = "bytes", tag = "5")] value: Bytes,
        #[doc = "The lease it goes with, or 0."] #[prost(int64, tag = "6")] lease: i64,
    }
    /// Reads keys.
    RangeRequest {
        #[doc = "The first key."] #[prost(bytes = "bytes", tag = "1")] key: Bytes,
        #[doc = "The first key that no longer belongs; empty for just the one."] #[prost(bytes = "bytes", tag = "2")] range_end: Bytes,
        #[doc = "At most so many; 0 for all."] #[prost(int64, tag = "3")] limit: i64,
        #[doc = "As of this revision; 0 for the newest."] #[prost(int64, tag = "4")] revision: i64,
        #[doc = "Without the values."] #[prost(bool, tag = "8")] keys_only: bool,
        #[doc = "Only keys written at or after it."] #[prost(int64, tag = "10")] min_mod_revision: i64,
        #[doc = "Only keys written at or before it."] #[prost(int64, tag = "11")] max_mod_revision: i64,
    }
    /// The keys read.
    RangeResponse {
        #[doc = "When."] #[prost(message, optional, tag = "1")] header: Option<ResponseHeader>,
        #[doc = "In key order."] #[prost(message, repeated, tag = "2")] kvs: Vec<KeyValue>,
        #[doc = "Whether the limit left some out."] #[prost(bool, tag = "3")] more: bool,
    }
    /// Writes a key.
    PutRequest {
        #[doc = "Its name."] #[prost(bytes = "bytes", tag = "1")] key: Bytes,
        #[doc = "What it shall hold."] #[prost(bytes = "bytes", tag = "2")] value: Bytes,
        #[doc = "The lease it shall go with, or 0."] #[prost(int64, tag = "3")] lease: i64,
        #[doc = "Keeps the value it has."] #[prost(bool, tag = "5")] ignore_value: bool,
        #[doc = "Keeps the lease it has."] #[prost(bool, tag = "6")] ignore_lease: bool,
    }
    /// The answer to a write.
    PutResponse {}
    /// Deletes keys.
    DeleteRangeRequest {
        #[doc = "The first key."] #[prost(bytes = "bytes", tag = "1")] key: Bytes,
        #[doc = "The first key that stays; empty for just the one."] #[prost(bytes = "bytes", tag = "2")] range_end: Bytes,
    }
    /// The answer to a deletion.
    DeleteRangeResponse {
        #[doc = "How many there were."] #[prost(int64, tag = "2")] deleted: i64,
    }
    /// One step of a transaction.
    RequestOp {
        #[doc = "Which."] #[prost(oneof = "Request", tags = "1, 2, 3, 4")] request: Option<Request>,
    }
    /// The answer to one step.
    ResponseOp {
        #[doc = "Which."] #[prost(oneof = "Response", tags = "1, 2, 3, 4")] response: Option<Response>,
    }
    /// A condition on every key of a range; on a key that does not exist all numbers are 0.
    Compare {
        #[doc = "0 equal, 1 greater, 2 less."] #[prost(int32, tag = "1")] result: i32,
        #[doc = "0 version, 2 revision of the last write, 3 value."] #[prost(int32, tag = "2")] target: i32,
        #[doc = "The first key."] #[prost(bytes = "bytes", tag = "3")] key: Bytes,
        #[doc = "With what."] #[prost(oneof = "Operand", tags = "4, 6, 7")] operand: Option<Operand>,
        #[doc = "The first key that no longer belongs; empty for just the one."] #[prost(bytes = "bytes", tag = "64")] range_end: Bytes,
    }
    /// A transaction.
    TxnRequest {
        #[doc = "What must hold, all of it."] #[prost(message, repeated, tag = "1")] compare: Vec<Compare>,
        #[doc = "Done when it holds."] #[prost(message, repeated, tag = "2")] success: Vec<RequestOp>,
        #[doc = "Done when it does not."] #[prost(message, repeated, tag = "3")] failure: Vec<RequestOp>,
    }
    /// What a transaction did.
    TxnResponse {
        #[doc = "When."] #[prost(message, optional, tag = "1")] header: Option<ResponseHeader>,
        #[doc = "Whether the conditions held."] #[prost(bool, tag = "2")] succeeded: bool,
        #[doc = "The answers to the steps that were done."] #[prost(message, repeated, tag = "3")] responses: Vec<ResponseOp>,
    }
    /// Forgets the history of the whole cluster before a revision.
    CompactionRequest {
        #[doc = "The oldest that stays."] #[prost(int64, tag = "1")] revision: i64,
    }
    /// The answer to a compaction.
    CompactionResponse {}
    /// A change of a key.
    Event {
        #[doc = "0 written, 1 deleted."] #[prost(int32, tag = "1")] kind: i32,
        #[doc = "The key after it."] #[prost(message, optional, tag = "2")] kv: Option<KeyValue>,
    }
    /// Begins a watch.
    WatchCreateRequest {
        #[doc = "The first key."] #[prost(bytes = "bytes", tag = "1")] key: Bytes,
        #[doc = "The first key that no longer belongs."] #[prost(bytes = "bytes", tag = "2")] range_end: Bytes,
        #[doc = "The first revision wanted."] #[prost(int64, tag = "3")] start_revision: i64,
        #[doc = "Whether to tell now and then how far a quiet watch is."] #[prost(bool, tag = "4")] progress_notify: bool,
        #[doc = "Whether large answers may come in parts."] #[prost(bool, tag = "8")] fragment: bool,
    }
    /// What is sent on a stream of watches.
    WatchRequest {
        #[doc = "A new watch."] #[prost(message, optional, tag = "1")] create_request: Option<WatchCreateRequest>,
    }
    /// What comes on a stream of watches.
    WatchResponse {
        #[doc = "When."] #[prost(message, optional, tag = "1")] header: Option<ResponseHeader>,
        #[doc = "It has begun."] #[prost(bool, tag = "3")] created: bool,
        #[doc = "It has ended."] #[prost(bool, tag = "4")] canceled: bool,
        #[doc = "Ended because the history before this is gone."] #[prost(int64, tag = "5")] compact_revision: i64,
        #[doc = "Why it ended."] #[prost(string, tag = "6")] cancel_reason: String,
        #[doc = "More parts of this answer follow."] #[prost(bool, tag = "7")] fragment: bool,
        #[doc = "In revision order."] #[prost(message, repeated, tag = "11")] events: Vec<Event>,
    }
    /// Makes a lease.
    LeaseGrantRequest {
        #[doc = "Seconds."] #[prost(int64, tag = "1")] ttl: i64,
        #[doc = "Its name."] #[prost(int64, tag = "2")] id: i64,
    }
    /// The lease made.
    LeaseGrantResponse {
        #[doc = "Its name."] #[prost(int64, tag = "2")] id: i64,
        #[doc = "Seconds; perhaps more than was asked for."] #[prost(int64, tag = "3")] ttl: i64,
    }
    /// Ends a lease.
    LeaseRevokeRequest {
        #[doc = "Its name."] #[prost(int64, tag = "1")] id: i64,
    }
    /// The answer to it.
    LeaseRevokeResponse {}
    /// Gives a lease its time again.
    LeaseKeepAliveRequest {
        #[doc = "Its name."] #[prost(int64, tag = "1")] id: i64,
    }
    /// The answer to it.
    LeaseKeepAliveResponse {
        #[doc = "Its name."] #[prost(int64, tag = "2")] id: i64,
        #[doc = "Seconds; 0 when there is no such lease."] #[prost(int64, tag = "3")] ttl: i64,
    }
    /// Asks for a token.
    #[prost(skip_debug)]
    AuthenticateRequest {
        #[doc = "Who."] #[prost(string, tag = "1")] name: String,
        #[doc = "The proof."] #[prost(string, tag = "2")] password: String,
    }
    /// The token.
    #[prost(skip_debug)]
    AuthenticateResponse {
        #[doc = "Goes with every call."] #[prost(string, tag = "2")] token: String,
    }
    /// Asks what a member is.
    StatusRequest {}
    /// What a member is.
    StatusResponse {
        #[doc = "Its release: 3.4.23."] #[prost(string, tag = "2")] version: String,
    }
}

impl fmt::Debug for AuthenticateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateRequest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateResponse")
            .finish_non_exhaustive()
    }
}

/// The steps that there are.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Request {
    /// Read.
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    /// Write.
    #[prost(message, tag = "2")]
    Put(PutRequest),
    /// Delete.
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
    /// A transaction inside, with conditions of its own.
    #[prost(message, tag = "4")]
    Txn(TxnRequest),
}

/// The answers that there are.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Response {
    /// Read.
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    /// Write.
    #[prost(message, tag = "2")]
    Put(PutResponse),
    /// Delete.
    #[prost(message, tag = "3")]
    Delete(DeleteRangeResponse),
    /// A transaction inside.
    #[prost(message, tag = "4")]
    Txn(TxnResponse),
}

/// What a key is compared with.
#[derive(Clone, PartialEq, ::prost::Oneof)]
pub enum Operand {
    /// Writes since it was made.
    #[prost(int64, tag = "4")]
    Version(i64),
    /// The revision of its last write.
    #[prost(int64, tag = "6")]
    Mod(i64),
    /// Its value.
    #[prost(bytes = "bytes", tag = "7")]
    Value(Bytes),
}

/// How a key is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// `=`
    Equal = 0,
    /// `>`
    Greater = 1,
    /// `<`
    Less = 2,
}

impl Compare {
    /// A condition on one key.
    pub fn key(key: Bytes, is: Is, operand: Operand) -> Self {
        Self::range(key, Bytes::new(), is, operand)
    }

    /// A condition on every key from `key` up to, but without, `range_end`.
    pub fn range(key: Bytes, range_end: Bytes, is: Is, operand: Operand) -> Self {
        let target = match operand {
            Operand::Version(_) => 0,
            Operand::Mod(_) => 2,
            Operand::Value(_) => 3,
        };
        Self {
            result: is as i32,
            target,
            key,
            operand: Some(operand),
            range_end,
        }
    }
}

impl RangeRequest {
    /// One key.
    pub fn key(key: Bytes) -> Self {
        Self {
            key,
            ..Self::default()
        }
    }

    /// A range, without the values.
    pub fn names(key: Bytes, range_end: Bytes, limit: i64) -> Self {
        Self {
            key,
            range_end,
            limit,
            keys_only: true,
            ..Self::default()
        }
    }

    /// As a step.
    pub fn op(self) -> RequestOp {
        RequestOp {
            request: Some(Request::Range(self)),
        }
    }
}

impl RequestOp {
    /// Writes a key.
    pub fn put(key: Bytes, value: Bytes) -> Self {
        let put = PutRequest {
            key,
            value,
            ..PutRequest::default()
        };
        Self {
            request: Some(Request::Put(put)),
        }
    }

    /// Writes a key with the value and the lease that it has.
    pub fn touch(key: Bytes) -> Self {
        let put = PutRequest {
            key,
            ignore_value: true,
            ignore_lease: true,
            ..PutRequest::default()
        };
        Self {
            request: Some(Request::Put(put)),
        }
    }

    /// Deletes a range, or one key when `range_end` is empty.
    pub fn delete(key: Bytes, range_end: Bytes) -> Self {
        Self {
            request: Some(Request::Delete(DeleteRangeRequest { key, range_end })),
        }
    }

    /// A transaction inside.
    pub fn txn(txn: TxnRequest) -> Self {
        Self {
            request: Some(Request::Txn(txn)),
        }
    }
}

impl TxnRequest {
    /// Steps without a condition.
    pub fn of(success: Vec<RequestOp>) -> Self {
        Self {
            success,
            ..Self::default()
        }
    }

    /// How many operations etcd counts: the longest list, and those of the transactions inside.
    pub fn operations(&self) -> usize {
        let inside = self.success.iter().chain(&self.failure);
        let inside = inside.filter_map(|op| match &op.request {
            Some(Request::Txn(txn)) => Some(txn.operations()),
            _ => None,
        });
        let here = self
            .compare
            .len()
            .max(self.success.len())
            .max(self.failure.len());
        here + inside.max().unwrap_or(0)
    }
}

impl TxnResponse {
    /// The revision when it was done.
    pub fn revision(&self) -> i64 {
        self.header.as_ref().map_or(0, |header| header.revision)
    }

    /// The answers of all reads, in order, those of the transactions inside too.
    pub fn ranges(self) -> Vec<RangeResponse> {
        let mut found = Vec::new();
        for op in self.responses {
            match op.response {
                Some(Response::Range(range)) => found.push(range),
                Some(Response::Txn(inside)) => found.extend(inside.ranges()),
                _ => {}
            }
        }
        found
    }
}
