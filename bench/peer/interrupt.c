/*
 * The interrupt: its connection and service routine, and the requirements that decide which processors it may reach.
 */
#include "peer.h"

/* u.Interrupt of an IO_RESOURCE_DESCRIPTOR, which the public-domain headers know without its policy. */
typedef struct _PEER_INTERRUPT_REQUIREMENT {
    ULONG MinimumVector;
    ULONG MaximumVector;
    IRQ_DEVICE_POLICY AffinityPolicy;
    USHORT Group;
    IRQ_PRIORITY PriorityPolicy;
    KAFFINITY TargetedProcessors;
} PEER_INTERRUPT_REQUIREMENT, *PPEER_INTERRUPT_REQUIREMENT;
C_ASSERT(sizeof(PEER_INTERRUPT_REQUIREMENT) <= sizeof(((PIO_RESOURCE_DESCRIPTOR)0)->u));

static KSERVICE_ROUTINE PeerLineService;
static KMESSAGE_SERVICE_ROUTINE PeerMessageService;

/* The first resource of a type, or NULL. IRQL: PASSIVE_LEVEL. */
PCM_PARTIAL_RESOURCE_DESCRIPTOR PeerFindResource(PCM_RESOURCE_LIST List, UCHAR Type)
{
    PCM_PARTIAL_RESOURCE_LIST resources;

    if (List == NULL || List->Count == 0) {
        return NULL;
    }
    /* A PnP device has one list. */
    resources = &List->List[0].PartialResourceList;
    for (ULONG index = 0; index < resources->Count; index++) {
        if (resources->PartialDescriptors[index].Type == Type) {
            return &resources->PartialDescriptors[index];
        }
    }
    return NULL;
}

/* Acknowledges, counts, queues the DPC. IRQL: DIRQL. */
static BOOLEAN NTAPI PeerLineService(PKINTERRUPT Interrupt, PVOID ServiceContext)
{
    PDEVICE_EXTENSION extension = ServiceContext;
    PPEER_PROCESSOR processor;

    UNREFERENCED_PARAMETER(Interrupt);
    /* A shared line that somebody else raised is not ours, nor one of a device that is gone. */
    if (!PeerEduTakeInterrupts(&extension->Edu)) {
        return FALSE;
    }
    processor = PeerCurrentProcessor();
    if (processor != NULL) {
        processor->Interrupts++;
    }
    KeInsertQueueDpc(&extension->Edu.IsrDpc, NULL, NULL);
    return TRUE;
}

static BOOLEAN NTAPI PeerMessageService(PKINTERRUPT Interrupt, PVOID ServiceContext, ULONG MessageId)
{
    UNREFERENCED_PARAMETER(MessageId);
    return PeerLineService(Interrupt, ServiceContext);
}

static VOID PeerNoteConnection(PPEER_EDU Edu, ULONG Version, PCM_PARTIAL_RESOURCE_DESCRIPTOR Interrupt)
{
    Edu->InterruptVersion = Version;
    Edu->InterruptMessages = 1;
    if (Version == CONNECT_MESSAGE_BASED) {
        Edu->InterruptMessages = ((PIO_INTERRUPT_MESSAGE_INFO)Edu->Interrupt)->MessageCount;
    }
    if (Interrupt->Flags & CM_RESOURCE_INTERRUPT_MESSAGE) {
        Edu->InterruptGroup = Interrupt->u.MessageInterrupt.Translated.Group;
        Edu->InterruptAffinity = Interrupt->u.MessageInterrupt.Translated.Affinity;
    } else {
        Edu->InterruptGroup = Interrupt->u.Interrupt.Group;
        Edu->InterruptAffinity = Interrupt->u.Interrupt.Affinity;
    }
}

static VOID PeerRecordConnection(PDEVICE_EXTENSION Extension, ULONG Kind)
{
    PPEER_EDU edu = &Extension->Edu;
    HOTADD_EVENT event = {
        .Group = edu->InterruptGroup,
        .Affinity = edu->InterruptAffinity,
        .Count = edu->InterruptMessages,
        .Before = edu->InterruptVersion == CONNECT_MESSAGE_BASED ? HOTADD_INTERRUPT_MODE_MESSAGE
                                                                 : HOTADD_INTERRUPT_MODE_LINE,
    };

    PeerRecord(Extension, Kind, &event);
}

/* Messages where the device has them, else its line; for the processors that the resources say. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerConnectInterrupt(PDEVICE_EXTENSION Extension, PCM_RESOURCE_LIST Translated)
{
    PCM_PARTIAL_RESOURCE_DESCRIPTOR interrupt = PeerFindResource(Translated, CmResourceTypeInterrupt);
    IO_CONNECT_INTERRUPT_PARAMETERS parameters = {.Version = CONNECT_MESSAGE_BASED};
    NTSTATUS status;

    if (interrupt == NULL) {
        return STATUS_DEVICE_CONFIGURATION_ERROR;
    }
    parameters.MessageBased.PhysicalDeviceObject = Extension->PhysicalDevice;
    parameters.MessageBased.ConnectionContext.Generic = &Extension->Edu.Interrupt;
    parameters.MessageBased.MessageServiceRoutine = PeerMessageService;
    parameters.MessageBased.ServiceContext = Extension;
    parameters.MessageBased.FallBackServiceRoutine = PeerLineService;
    status = IoConnectInterruptEx(&parameters);
    if (NT_SUCCESS(status)) {
        PeerNoteConnection(&Extension->Edu, parameters.Version, interrupt);
        PeerRecordConnection(Extension, HOTADD_EVENT_KIND_INTERRUPT_CONNECTED);
    }
    return status;
}

/* The service routine does not run any more afterwards. IRQL: PASSIVE_LEVEL. */
VOID PeerDisconnectInterrupt(PDEVICE_EXTENSION Extension)
{
    IO_DISCONNECT_INTERRUPT_PARAMETERS parameters;

    if (Extension->Edu.Interrupt == NULL) {
        return;
    }
    parameters.Version = Extension->Edu.InterruptVersion;
    parameters.ConnectionContext.Generic = Extension->Edu.Interrupt;
    IoDisconnectInterruptEx(&parameters);
    Extension->Edu.Interrupt = NULL;
    PeerRecordConnection(Extension, HOTADD_EVENT_KIND_INTERRUPT_DISCONNECTED);
}

/* Asks for all processors, unless somebody has chosen a policy. Whether nobody has. */
static BOOLEAN PeerEditInterrupt(PIO_RESOURCE_DESCRIPTOR Descriptor)
{
    PPEER_INTERRUPT_REQUIREMENT interrupt = (PPEER_INTERRUPT_REQUIREMENT)&Descriptor->u;
    BOOLEAN isMessage = (Descriptor->Flags & CM_RESOURCE_INTERRUPT_MESSAGE) != 0;

    if ((Descriptor->Flags & CM_RESOURCE_INTERRUPT_POLICY_INCLUDED) &&
        interrupt->AffinityPolicy != IrqPolicyMachineDefault) {
        return FALSE;
    }
    interrupt->AffinityPolicy =
        isMessage ? IrqPolicySpreadMessagesAcrossAllProcessors : IrqPolicyAllProcessorsInMachine;
    interrupt->Group = ALL_PROCESSOR_GROUPS;
    interrupt->TargetedProcessors = 0;
    Descriptor->Flags |= CM_RESOURCE_INTERRUPT_POLICY_INCLUDED;
    return TRUE;
}

/* How many interrupts had no policy. */
static ULONG PeerEditRequirements(PIO_RESOURCE_REQUIREMENTS_LIST Requirements)
{
    PIO_RESOURCE_LIST list = &Requirements->List[0];
    ULONG edited = 0;

    for (ULONG alternative = 0; alternative < Requirements->AlternativeLists; alternative++) {
        for (ULONG index = 0; index < list->Count; index++) {
            if (list->Descriptors[index].Type == CmResourceTypeInterrupt &&
                PeerEditInterrupt(&list->Descriptors[index])) {
                edited++;
            }
        }
        list = (PIO_RESOURCE_LIST)&list->Descriptors[list->Count];
    }
    return edited;
}

/* IRP_MN_FILTER_RESOURCE_REQUIREMENTS, on its way back up: the list keeps its size, so it is edited in its place; there
   is none where the device asks for nothing. IRQL: PASSIVE_LEVEL. */
NTSTATUS PeerFilterRequirements(PDEVICE_EXTENSION Extension, PIRP Irp)
{
    PIO_RESOURCE_REQUIREMENTS_LIST requirements;
    HOTADD_EVENT event = {0};

    (VOID)PeerForwardAndWait(Extension, Irp);
    requirements = (PIO_RESOURCE_REQUIREMENTS_LIST)Irp->IoStatus.Information;
    if (requirements != NULL) {
        event.Count = PeerEditRequirements(requirements);
        Irp->IoStatus.Status = STATUS_SUCCESS;
    }
    PeerRecord(Extension, HOTADD_EVENT_KIND_REQUIREMENTS_FILTERED, &event);
    return PeerEnd(Extension, Irp, Irp->IoStatus.Status, Irp->IoStatus.Information);
}
