//! The PnP states of a device, as a table: state and request to next state and action.

pub use hotadd_abi::PnpState as State;

/// A PnP request that moves a device between its states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `IRP_MN_START_DEVICE`.
    Start,
    /// `IRP_MN_QUERY_STOP_DEVICE`.
    QueryStop,
    /// `IRP_MN_CANCEL_STOP_DEVICE`.
    CancelStop,
    /// `IRP_MN_STOP_DEVICE`.
    Stop,
    /// `IRP_MN_QUERY_REMOVE_DEVICE`.
    QueryRemove,
    /// `IRP_MN_CANCEL_REMOVE_DEVICE`.
    CancelRemove,
    /// `IRP_MN_SURPRISE_REMOVAL`.
    SurpriseRemoval,
    /// `IRP_MN_REMOVE_DEVICE`.
    Remove,
}

impl Request {
    /// All of them, in the order of the table's columns.
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::QueryStop,
        Self::CancelStop,
        Self::Stop,
        Self::QueryRemove,
        Self::CancelRemove,
        Self::SurpriseRemoval,
        Self::Remove,
    ];
}

/// What a device does on a PnP request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing of its own: success, pass the request down.
    PassDown,
    /// Lower drivers first, then bring the hardware up and let requests through. The state changes only if that
    /// succeeds.
    Start,
    /// As [`Action::Start`], after a stop for other resources.
    Restart,
    /// Hold requests for a stop, let those in flight finish, pass down.
    HoldForStop,
    /// Lower drivers first, then let requests through again.
    EndStop,
    /// Hold requests if they are not held yet, take the hardware down, pass down.
    Stop,
    /// Hold requests for a removal, let those in flight finish, pass down.
    HoldForRemoval,
    /// Lower drivers first, then let requests through again.
    EndRemoval,
    /// Refuse requests for good, fail those that are held, take the hardware down, pass down.
    LoseDevice,
    /// As [`Action::LoseDevice`], then pass down and delete the device.
    Remove,
    /// The PnP manager does not send this in this state: fail the request.
    Reject,
}

/// One cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state that follows.
    pub next: State,
    /// What to do.
    pub action: Action,
}

const fn to(next: State, action: Action) -> Transition {
    Transition { next, action }
}

/// A row for a state in which only some requests mean anything; the others pass down.
const fn row(state: State, start: Transition, stop: [Transition; 3], remove: [Transition; 2]) -> [Transition; 8] {
    let [query_stop, cancel_stop, stop] = stop;
    let [query_remove, cancel_remove] = remove;
    let lost = match state {
        State::SurpriseRemoved => to(state, Action::PassDown),
        _ => to(State::SurpriseRemoved, Action::LoseDevice),
    };
    [start, query_stop, cancel_stop, stop, query_remove, cancel_remove, lost, to(State::Removed, Action::Remove)]
}

/// Rows are states, columns are requests, in the order of [`Request::ALL`].
///
/// A query or cancel in a state where requests are held anyway changes nothing, so that its counterpart has nothing to
/// undo; that is also what makes a cancel without a query harmless.
const TABLE: [[Transition; 8]; 7] = {
    use Action::{
        EndRemoval, EndStop, HoldForRemoval, HoldForStop, PassDown, Reject, Restart, Start, Stop as TakeDown,
    };
    use State::{NotStarted, RemovePending, Removed, Started, StopPending, Stopped, SurpriseRemoved};
    [
        row(NotStarted, to(Started, Start), [to(NotStarted, PassDown); 3], [to(NotStarted, PassDown); 2]),
        row(
            Started,
            to(Started, Reject),
            [to(StopPending, HoldForStop), to(Started, PassDown), to(Stopped, TakeDown)],
            [to(RemovePending, HoldForRemoval), to(Started, PassDown)],
        ),
        row(
            StopPending,
            to(StopPending, Reject),
            [to(StopPending, PassDown), to(Started, EndStop), to(Stopped, TakeDown)],
            [to(StopPending, PassDown); 2],
        ),
        row(Stopped, to(Started, Restart), [to(Stopped, PassDown); 3], [to(Stopped, PassDown); 2]),
        row(
            RemovePending,
            to(RemovePending, Reject),
            [to(RemovePending, PassDown), to(RemovePending, PassDown), to(Stopped, TakeDown)],
            [to(RemovePending, PassDown), to(Started, EndRemoval)],
        ),
        row(
            SurpriseRemoved,
            to(SurpriseRemoved, Reject),
            [to(SurpriseRemoved, PassDown); 3],
            [to(SurpriseRemoved, PassDown); 2],
        ),
        [to(Removed, Reject); 8],
    ]
};

/// What a device in `state` does on `request`.
#[must_use]
pub const fn decide(state: State, request: Request) -> Transition {
    // Both are enumerations with as many values as the table has rows and columns.
    TABLE[state as usize][request as usize]
}

/// Whether `request` has to be failed because a paging, hibernation or dump file is in the device's path.
#[must_use]
pub const fn usage_forbids(request: Request, files_in_path: u32) -> bool {
    files_in_path != 0 && matches!(request, Request::QueryStop | Request::QueryRemove)
}

/// The count of such files after one more came into the path or one left it.
#[must_use]
pub const fn usage_after(files_in_path: u32, came: bool) -> u32 {
    if came { files_in_path.saturating_add(1) } else { files_in_path.saturating_sub(1) }
}
