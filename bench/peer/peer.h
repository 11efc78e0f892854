/*
 * peer.sys: a function driver in C that does the jobs of hotadd the way the documentation of Windows teaches them, to
 * compare the two.
 *
 * Every request waits in one cancel-safe queue, which the device's engine takes it from: a DPC where there is no
 * hardware, else an edu device. While the device is stopped, off or about to go the engine takes none.
 *
 * There is no buffer pool and no wait for the high memory condition.
 */
#pragma once

#define NT_PROCESSOR_GROUPS 1
#include <ntifs.h>

#include "hotadd.h"

#define PEER_TAG 'reeP'

/* What the public-domain headers lack. */
#ifndef POOL_FLAG_NON_PAGED
#define POOL_FLAG_CACHE_ALIGNED 0x8ULL
#define POOL_FLAG_NON_PAGED 0x40ULL
#endif
#ifndef STATUS_DEVICE_HARDWARE_ERROR
#define STATUS_DEVICE_HARDWARE_ERROR ((NTSTATUS)0xC0000483L)
#endif
#ifndef MdlMappingNoExecute
#define MdlMappingNoExecute 0x40000000
#endif

/* Where the device is under power management. */
#define PEER_POWER_ON 0
#define PEER_POWER_OFF 3

/* What is kept for one processor, from the start of its addition on. Only that processor writes the counters. */
typedef struct _PEER_PROCESSOR {
    PROCESSOR_NUMBER Number;
    BOOLEAN Joined;
    ULONG EarlyRequests;
    ULONG64 Interrupts;
    ULONG64 Dpcs;
    ULONG64 Requests;
    ULONG64 JoinedAt;
} PEER_PROCESSOR, *PPEER_PROCESSOR;

/* What all devices share. */
typedef struct _PEER_GLOBALS {
    PDRIVER_OBJECT DriverObject;
    PVOID ProcessorCallback;
    NTSTATUS ProcessorCallbackStatus;
    /* Guards the blocks against going while somebody who is not on the processor reads them. */
    KSPIN_LOCK ProcessorLock;
    ULONG ProcessorMaximum;
    LONG ProcessorsKnown;
    LONG ProcessorsJoined;
    /* By the processor's index. */
    PPEER_PROCESSOR *Processors;
    LONG Devices;
    ULONG RequestTimeout;
    ULONG JournalEvents;
    ULONG JournalWaiters;
    ULONG64 MemoryBytesAtLoad;
    volatile LONG64 MemoryBytes;
} PEER_GLOBALS;

extern PEER_GLOBALS PeerGlobals;

typedef struct _PEER_COUNTERS {
    ULONG64 Accepted;
    ULONG64 Completed;
    ULONG64 Cancelled;
    ULONG64 Failed;
    ULONG64 Rebalances;
    ULONG64 Timeouts;
} PEER_COUNTERS;

/* An edu device. */
typedef struct _PEER_EDU {
    /* Guards the registers and the request that the device works on. */
    KSPIN_LOCK Lock;
    PUCHAR Registers;
    PIRP Current;
    ULONG64 CurrentSince;
    /* The device has power. */
    BOOLEAN Awake;
    /* A request timed out, and the device has not come back since. */
    BOOLEAN Stuck;
    /* The device may still transfer to the common buffer, when it has power. */
    BOOLEAN Transferring;
    /* The store has the device's buffer. */
    BOOLEAN Saved;
    PDMA_ADAPTER DmaAdapter;
    PUCHAR CommonBuffer;
    PHYSICAL_ADDRESS CommonAddress;
    KDPC IsrDpc;
    KTIMER Watchdog;
    KDPC WatchdogDpc;
    /* How the interrupt is connected, if it is. */
    PVOID Interrupt;
    ULONG InterruptVersion;
    ULONG InterruptMessages;
    USHORT InterruptGroup;
    KAFFINITY InterruptAffinity;
} PEER_EDU, *PPEER_EDU;

typedef struct _DEVICE_EXTENSION {
    PDEVICE_OBJECT Self;
    PDEVICE_OBJECT PhysicalDevice;
    PDEVICE_OBJECT LowerDevice;
    UNICODE_STRING InterfaceName;
    /* Held for every IRP until it is completed or passed down. */
    IO_REMOVE_LOCK RemoveLock;
    ULONG Number;

    /* PnP IRPs come one at a time, at PASSIVE_LEVEL. */
    ULONG PnpState;
    LONG FilesInPath;

    /* Power. */
    ULONG PowerState;
    /* Lower drivers have turned the device off, and not on again. */
    BOOLEAN LowerIsOff;
    PIO_WORKITEM PowerWork;
    PIRP PowerIrp;
    BOOLEAN PowerWanted;
    PIRP SystemIrp;

    /* The queue and why it holds requests, under its lock. */
    IO_CSQ Csq;
    KSPIN_LOCK QueueLock;
    LIST_ENTRY Queue;
    ULONG QueueLength;
    ULONG HoldReasons;
    /* What requests are refused with; STATUS_SUCCESS while they are not. */
    NTSTATUS RefuseStatus;
    ULONG64 Waited;
    ULONG64 HoldSince;
    ULONG64 WaitedBefore;
    ULONG64 LastHoldDuration;
    ULONG64 LastHoldWaited;

    /* How often the engine is at work; draining waits until it is not. */
    volatile LONG Busy;
    volatile LONG Draining;
    KEVENT Drained;

    KSPIN_LOCK CounterLock;
    PEER_COUNTERS Counters;

    /* The engine. The store is the device's buffer for software, and keeps that of an edu device while it is off. */
    ULONG Engine;
    KDPC SoftwareDpc;
    KSPIN_LOCK StoreLock;
    UCHAR Store[HOTADD_BUFFER_BYTES];
    PEER_EDU Edu;

    /* Notifications of added hardware. */
    PVOID ProcessorArrival;
    PVOID MemoryArrival;
    PIO_WORKITEM RefreshWork;
    volatile LONG RefreshQueued;
} DEVICE_EXTENSION, *PDEVICE_EXTENSION;

/* driver.c */
NTSTATUS PeerForwardAndWait(PDEVICE_EXTENSION Extension, PIRP Irp);
NTSTATUS PeerPassDown(PDEVICE_EXTENSION Extension, PIRP Irp);
NTSTATUS PeerEnd(PDEVICE_EXTENSION Extension, PIRP Irp, NTSTATUS Status, ULONG_PTR Information);
VOID PeerDeleteDevice(PDEVICE_EXTENSION Extension);

/* journal.c */
NTSTATUS PeerInitializeJournal(VOID);
VOID PeerDeleteJournal(VOID);
ULONG64 PeerJournalNext(VOID);
VOID PeerRecord(PDEVICE_EXTENSION Extension, ULONG Kind, PHOTADD_EVENT Event);
VOID PeerRecordStatus(PDEVICE_EXTENSION Extension, ULONG Kind, NTSTATUS Status);
VOID PeerCancelWaiters(PFILE_OBJECT FileObject);
NTSTATUS PeerJournalRead(PIRP Irp, PIO_STACK_LOCATION Stack, PULONG_PTR Information);
NTSTATUS PeerJournalWait(PDEVICE_EXTENSION Extension, PIRP Irp, PIO_STACK_LOCATION Stack);

/* notify.c */
NTSTATUS PeerRegisterNotifications(PDEVICE_EXTENSION Extension);
VOID PeerUnregisterNotifications(PDEVICE_EXTENSION Extension);
NTSTATUS PeerQueryMemory(PULONG64 Bytes);

/* pnp.c, power.c */
DRIVER_DISPATCH PeerDispatchPnp;
DRIVER_DISPATCH PeerDispatchPower;
VOID PeerReportPower(PDEVICE_EXTENSION Extension, DEVICE_POWER_STATE State);

/* processors.c */
NTSTATUS PeerRegisterProcessors(VOID);
VOID PeerUnregisterProcessors(VOID);
PPEER_PROCESSOR PeerCurrentProcessor(VOID);
PPEER_PROCESSOR PeerProcessor(ULONG Index);
NTSTATUS PeerProcessorStatistics(PIRP Irp, PIO_STACK_LOCATION Stack, PULONG_PTR Information);

/* queue.c */
NTSTATUS PeerInitializeQueue(PDEVICE_EXTENSION Extension);
NTSTATUS PeerSubmit(PDEVICE_EXTENSION Extension, PIRP Irp);
PIRP PeerTakeRequest(PDEVICE_EXTENSION Extension);
VOID PeerFinish(PDEVICE_EXTENSION Extension, PIRP Irp, NTSTATUS Status, ULONG_PTR Information, ULONG Processor);
VOID PeerEngineEnter(PDEVICE_EXTENSION Extension);
VOID PeerEngineLeave(PDEVICE_EXTENSION Extension);
VOID PeerHold(PDEVICE_EXTENSION Extension, ULONG Reason);
VOID PeerRelease(PDEVICE_EXTENSION Extension, ULONG Reasons);
VOID PeerRefuse(PDEVICE_EXTENSION Extension, NTSTATUS Status);
VOID PeerDrain(PDEVICE_EXTENSION Extension);
VOID PeerFailQueued(PDEVICE_EXTENSION Extension, PFILE_OBJECT FileObject, NTSTATUS Status);

/* requests.c */
DRIVER_DISPATCH PeerDispatchCreate;
DRIVER_DISPATCH PeerDispatchCleanup;
DRIVER_DISPATCH PeerDispatchClose;
DRIVER_DISPATCH PeerDispatchReadWrite;
DRIVER_DISPATCH PeerDispatchDeviceControl;

/* engine.c: the engine of the device, whichever it is. */
VOID PeerInitializeEngine(PDEVICE_EXTENSION Extension);
NTSTATUS PeerEngineStart(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated);
VOID PeerEngineStop(PDEVICE_EXTENSION Extension, BOOLEAN Save);
VOID PeerEngineSleep(PDEVICE_EXTENSION Extension, BOOLEAN Save);
NTSTATUS PeerEngineWake(PDEVICE_EXTENSION Extension);
VOID PeerEngineKick(PDEVICE_EXTENSION Extension);
VOID PeerEngineAbandon(PDEVICE_EXTENSION Extension, NTSTATUS Status);
ULONG PeerBufferBytes(PDEVICE_EXTENSION Extension);

/* edu.c: requests to an edu device. */
VOID PeerEduInitialize(PDEVICE_EXTENSION Extension);
NTSTATUS PeerEduStart(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated);
VOID PeerEduStop(PDEVICE_EXTENSION Extension, BOOLEAN Save);
VOID PeerEduStartNext(PDEVICE_EXTENSION Extension);
VOID PeerEduAbandon(PDEVICE_EXTENSION Extension, NTSTATUS Status);

/* hardware.c: its registers, and its state. */
#define PEER_EDU_REACHABLE (HOTADD_BUFFER_BYTES - 1)
#define PEER_EDU_REGISTERS 0x1000
NTSTATUS PeerEduIdentify(PPEER_EDU Edu);
BOOLEAN PeerEduTakeInterrupts(PPEER_EDU Edu);
VOID PeerEduSilence(PPEER_EDU Edu);
VOID PeerEduEnableInterrupts(PPEER_EDU Edu);
BOOLEAN PeerEduIsGone(PPEER_EDU Edu);
BOOLEAN PeerEduIsIdle(PPEER_EDU Edu);
BOOLEAN PeerEduIsTransferring(PPEER_EDU Edu);
BOOLEAN PeerEduIsDone(PPEER_EDU Edu, PIRP Irp);
VOID PeerEduBegin(PPEER_EDU Edu, PIRP Irp);
NTSTATUS PeerEduCollect(PPEER_EDU Edu, PIRP Irp, ULONG Processor, PULONG Length);
NTSTATUS PeerEduWaitUntilIdle(PPEER_EDU Edu);
VOID PeerEduSleep(PDEVICE_EXTENSION Extension, BOOLEAN Save);
NTSTATUS PeerEduWake(PDEVICE_EXTENSION Extension);

/* interrupt.c */
NTSTATUS PeerConnectInterrupt(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated);
VOID PeerDisconnectInterrupt(PDEVICE_EXTENSION Extension);
NTSTATUS PeerFilterRequirements(PDEVICE_EXTENSION Extension, PIRP Irp);
PCM_PARTIAL_RESOURCE_DESCRIPTOR PeerFindResource(PCM_RESOURCE_LIST List, UCHAR Type);
