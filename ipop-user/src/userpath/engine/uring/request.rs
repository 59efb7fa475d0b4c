//! The names of requests: what a submission carries as its user data and a completion returns.

/// What a completion is about: the kind in the upper half of its user data, an index in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    TunRead,
    Receive(u8),
    Send(u16),
    Write(u16),
    Writable,
    Wake,
}

impl Request {
    pub(super) const fn user_data(self) -> u64 {
        let (kind, index) = match self {
            Request::TunRead => (1, 0),
            Request::Receive(socket) => (2, socket as u64),
            Request::Send(index) => (3, index as u64),
            Request::Write(frame) => (4, frame as u64),
            Request::Writable => (5, 0),
            Request::Wake => (6, 0),
        };
        kind << 32 | index
    }

    pub(super) const fn from_user_data(data: u64) -> Option<Self> {
        let index = data as u16;
        match data >> 32 {
            1 => Some(Request::TunRead),
            2 => Some(Request::Receive(index as u8)),
            3 => Some(Request::Send(index)),
            4 => Some(Request::Write(index)),
            5 => Some(Request::Writable),
            6 => Some(Request::Wake),
            _ => None,
        }
    }
}

/// A completion, taken off the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) request: Request,
    pub(super) result: i32,
    pub(super) flags: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_names_the_request() {
        for request in [
            Request::TunRead,
            Request::Receive(15),
            Request::Send(63),
            Request::Write(u16::MAX),
            Request::Writable,
            Request::Wake,
        ] {
            assert_eq!(Request::from_user_data(request.user_data()), Some(request));
        }
        assert_eq!(Request::from_user_data(0), None);
    }
}
