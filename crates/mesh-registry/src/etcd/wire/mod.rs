//! etcd's messages, and shorthand to make them.

#[allow(missing_docs, unreachable_pub, reason = "generated")]
#[rustfmt::skip]
mod generated;

use bytes::Bytes;

pub(super) use generated::*;

use compare::TargetUnion;

impl RangeRequest {
    /// The newest of one key.
    pub(super) fn key(key: Bytes) -> Self {
        Self { key, ..Self::default() }
    }

    /// At most `limit` keys from `start` up to but not including `end`.
    pub(super) fn between(start: Bytes, end: Bytes, limit: i64) -> Self {
        Self { key: start, range_end: end, limit, ..Self::default() }
    }

    /// How many keys there are from `start` up to but not including `end`.
    pub(super) fn count(start: Bytes, end: Bytes) -> Self {
        Self { key: start, range_end: end, count_only: true, ..Self::default() }
    }

    pub(super) fn at(self, revision: i64) -> Self {
        Self { revision, ..self }
    }

    pub(super) fn op(self) -> RequestOp {
        RequestOp { request: Some(request_op::Request::RequestRange(self)) }
    }
}

impl PutRequest {
    pub(super) fn op(self) -> RequestOp {
        RequestOp { request: Some(request_op::Request::RequestPut(self)) }
    }
}

impl DeleteRangeRequest {
    pub(super) fn op(self) -> RequestOp {
        RequestOp { request: Some(request_op::Request::RequestDeleteRange(self)) }
    }
}

impl ResponseOp {
    /// The answer to a range; empty if it is that to something else.
    pub(super) fn into_range(self) -> RangeResponse {
        match self.response {
            Some(response_op::Response::ResponseRange(range)) => range,
            _ => RangeResponse::default(),
        }
    }
}

impl Compare {
    fn new(key: Bytes, target: CompareTarget, result: CompareResult, with: TargetUnion) -> Self {
        Self {
            result: result.into(),
            target: target.into(),
            key,
            target_union: Some(with),
            range_end: Bytes::new(),
        }
    }

    /// The key was last written at this revision; 0: there is none.
    pub(super) fn written_at(key: Bytes, revision: i64) -> Self {
        let with = TargetUnion::ModRevision(revision);
        Self::new(key, CompareTarget::Mod, CompareResult::Equal, with)
    }

    pub(super) fn present(key: Bytes) -> Self {
        let with = TargetUnion::CreateRevision(0);
        Self::new(key, CompareTarget::Create, CompareResult::Greater, with)
    }

    pub(super) fn absent(key: Bytes) -> Self {
        let with = TargetUnion::CreateRevision(0);
        Self::new(key, CompareTarget::Create, CompareResult::Equal, with)
    }

    /// There is no key from `start` up to but not including `end`.
    pub(super) fn none_between(start: Bytes, end: Bytes) -> Self {
        Self { range_end: end, ..Self::absent(start) }
    }

    pub(super) fn has_value(key: Bytes, value: Bytes) -> Self {
        Self::new(key, CompareTarget::Value, CompareResult::Equal, TargetUnion::Value(value))
    }

    pub(super) fn hangs_on(key: Bytes, lease: i64) -> Self {
        Self::new(key, CompareTarget::Lease, CompareResult::Equal, TargetUnion::Lease(lease))
    }
}
