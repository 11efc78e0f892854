<#
.SYNOPSIS
Makes a Hyper-V virtual machine in which hotadd can be tested. Run it on the host.

.DESCRIPTION
Generation 2, Secure Boot off (test signing needs that), memory that can be enlarged at run time, checkpoints by hand only, and a
serial port on a named pipe for the kernel debugger. What is there already is kept, so that the script can be run again.

.PARAMETER Name
The virtual machine's name.

.PARAMETER VhdPath
Its system disk. One that is not there is made, empty.

.PARAMETER IsoPath
Windows' installation medium, for an empty disk.

.PARAMETER SwitchName
The virtual switch that it is connected to; without one it has no network.

.PARAMETER ProcessorCount
How many virtual processors it has. PNPCPU takes all but one away and adds them again.

.PARAMETER MemoryStartupBytes
How much memory it starts with.

.EXAMPLE
.\New-HyperVGuest.ps1 -Name hotadd -VhdPath D:\vm\hotadd.vhdx -IsoPath D:\iso\server2025.iso
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateNotNullOrEmpty()] [string] $Name = 'hotadd',
    [Parameter(Mandatory)] [ValidatePattern('\.vhdx$')] [string] $VhdPath,
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $IsoPath,
    [string] $SwitchName,
    [ValidateRange(2, 240)] [int] $ProcessorCount = 4,
    [ValidateRange(2gb, 64gb)] [long] $MemoryStartupBytes = 4gb
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

Assert-Administrator
if (-not (Get-VM -Name $Name -ErrorAction SilentlyContinue)) {
    if ($PSCmdlet.ShouldProcess($Name, 'make a virtual machine')) {
        $disk = @{ VHDPath = $VhdPath }
        if (-not (Test-Path -LiteralPath $VhdPath)) {
            $disk = @{ NewVHDPath = $VhdPath; NewVHDSizeBytes = 64gb }
        }
        $network = if ($SwitchName) { @{ SwitchName = $SwitchName } } else { @{} }
        New-VM -Name $Name -Generation 2 -MemoryStartupBytes $MemoryStartupBytes @disk @network | Out-Null
    }
}
if ($PSCmdlet.ShouldProcess($Name, 'set firmware, processors, memory, serial port and medium')) {
    if ((Get-VM -Name $Name).State -ne 'Off') {
        throw "$Name runs: stop it (Stop-VM -Name $Name), then run this again."
    }
    Set-VMFirmware -VMName $Name -EnableSecureBoot Off
    Set-VMProcessor -VMName $Name -Count $ProcessorCount
    # Memory that is not dynamic is what Set-VMMemory -StartupBytes enlarges while the machine runs.
    Set-VMMemory -VMName $Name -DynamicMemoryEnabled $false -StartupBytes $MemoryStartupBytes
    Set-VM -Name $Name -CheckpointType Standard -AutomaticCheckpointsEnabled $false
    Set-VMComPort -VMName $Name -Number 1 -Path "\\.\pipe\$Name"
    if ($IsoPath) {
        $drive = Get-VMDvdDrive -VMName $Name | Select-Object -First 1
        if (-not $drive) {
            $drive = Add-VMDvdDrive -VMName $Name -Passthru
        }
        Set-VMDvdDrive -VMDvdDrive $drive -Path $IsoPath
        Set-VMFirmware -VMName $Name -FirstBootDevice (Get-VMDvdDrive -VMName $Name | Select-Object -First 1)
    }
    Write-Output "$Name is ready. Start-VM -Name $Name, install Windows, then: Checkpoint-VM -Name $Name -SnapshotName clean"
}
