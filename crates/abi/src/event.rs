//! The journal's events.

use crate::{codes, wire::wire};

wire! {
    /// One event of the journal. What a field means depends on [`Event::kind`]; one that has no meaning there is zero.
    pub struct Event: 72 {
        /// Events are numbered from 0, without gaps.
        pub sequence: u64,
        /// When it was recorded, in 100 ns units of interrupt time; never less than in the event before. That is when it happened,
        /// but for the kinds 16 and 17: the processor change callback only leaves word, which the work item that it queues records at the
        /// latest.
        pub time: u64,
        /// See [`EventKind`].
        pub kind: u32,
        /// An NTSTATUS.
        pub status: i32,
        /// Which of the driver's devices, numbered from 1 as they were added; 0 for the driver itself.
        pub device: u32,
        /// A processor's index.
        pub processor: u32,
        /// A processor group.
        pub group: u32,
        /// A processor's number in its group.
        pub number: u32,
        /// A processor mask within [`Event::group`].
        pub affinity: u64,
        /// A quantity before.
        pub before: u64,
        /// The same quantity after, or a count.
        pub count: u64,
        /// How long it took, in 100 ns units.
        pub duration: u64,
    }
}

codes! {
    /// What happened.
    pub enum EventKind {
        /// The driver was loaded. `count`: active processors.
        DriverLoaded = 1,
        /// A parameter's value was out of its range or of the wrong type; its default is used. `count`: the parameter's
        /// place in docs/parameters.md, from 1.
        ParameterIgnored = 2,

        /// A processor is about to be added, and has its block. `processor`, `group`, `number`.
        ProcessorAddStart = 16,
        /// A processor was added; the next plan steers work to it. `processor`, `group`, `number`, `count`: processors
        /// known.
        ProcessorAddComplete = 17,
        /// A processor was not added; its block is gone. `processor`, `group`, `number`, `status`.
        ProcessorAddFailure = 18,
        /// The driver refused a processor. `processor`, `group`, `number`, `status`.
        ProcessorVetoed = 19,
        /// A processor device arrived (asynchronous notification).
        ProcessorArrival = 20,
        /// The steering plan was rebuilt. `before`, `count`: processors steered to; `status`: why a processor that joined is not
        /// among them, if one is not.
        PlanRebuilt = 21,

        /// A memory device arrived (asynchronous notification).
        MemoryArrival = 32,
        /// The high memory condition was signaled.
        HighMemory = 33,
        /// There is more physical memory. `before`, `count`: bytes.
        MemoryGrew = 34,
        /// The buffer pool grew. `before`, `count`: bytes.
        PoolGrew = 35,
        /// The buffer pool could not grow as far as wanted. `before`, `count`: bytes, `status`.
        PoolGrowthFailed = 36,

        /// The interface notifications were registered.
        NotificationsRegistered = 48,
        /// The interface notifications were let go.
        NotificationsReleased = 49,

        /// A device was added.
        DeviceAdded = 64,
        /// A device was started for the first time. `status`.
        DeviceStarted = 65,
        /// A device was asked to stop. `status`: what it answered, `count`: requests in the device's path it refused
        /// for.
        QueryStop = 66,
        /// The stop was cancelled.
        CancelStop = 67,
        /// A device was stopped.
        DeviceStopped = 68,
        /// A device was started again. `status`.
        DeviceRestarted = 69,
        /// A device was asked whether it can be removed. `status`.
        QueryRemove = 70,
        /// The removal was cancelled.
        CancelRemove = 71,
        /// A device is gone.
        SurpriseRemoved = 72,
        /// A device was removed.
        DeviceRemoved = 73,
        /// A paging, hibernation or dump file came into or left the device's path. `count`: how many there are.
        UsageChanged = 74,
        /// The resource requirements were edited. `count`: interrupts whose policy was set, `status`.
        RequirementsFiltered = 75,

        /// The gate began to hold requests. `count`: hold reasons.
        GateClosed = 80,
        /// Nothing is in flight any more. `duration`: since the gate closed.
        GateDrained = 81,
        /// The gate passes requests again. `count`: requests that had waited, `duration`: since the gate closed.
        GateOpened = 82,
        /// The gate refuses requests for good. `count`: requests that had waited and were failed.
        GateRefusing = 83,

        /// The interrupt was connected. `before`: an interrupt mode, `count`: lines or messages, `group`, `affinity`:
        /// the processors of the first one.
        InterruptConnected = 96,
        /// The interrupt was disconnected. As for the connection.
        InterruptDisconnected = 97,

        /// A device left D0. `status`.
        PowerDown = 112,
        /// A device is in D0 again. `status`.
        PowerUp = 113,

        /// The device did not answer a request in time.
        RequestTimeout = 128,
        /// The device was reset. `status`.
        DeviceReset = 129,
    }
}
