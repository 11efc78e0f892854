<#
.SYNOPSIS
Gives a running Hyper-V virtual machine more memory. Run it on the host.

.DESCRIPTION
Raises the memory of a machine without dynamic memory, which Windows 10, Windows Server 2016 and newer guests take at run time. Asking
for what it has already changes nothing.

.PARAMETER Name
The virtual machine's name.

.PARAMETER TotalBytes
How much memory it is to have in all.

.PARAMETER TimeoutSeconds
How long the guest may take.

.EXAMPLE
.\Add-HyperVMemory.ps1 -Name hotadd -TotalBytes 6gb
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateNotNullOrEmpty()] [string] $Name = 'hotadd',
    [Parameter(Mandatory)] [ValidateRange(2gb, 1tb)] [long] $TotalBytes,
    [ValidateRange(1, 3600)] [int] $TimeoutSeconds = 120
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

Assert-Administrator
$vm = Get-VM -Name $Name
if ($vm.State -ne 'Running') {
    throw "$Name does not run: memory is hot-added to a machine that runs (Start-VM -Name $Name)."
}
if ($vm.DynamicMemoryEnabled) {
    throw "$Name has dynamic memory, which grows by itself: make the machine with New-HyperVGuest.ps1."
}
$before = $vm.MemoryAssigned
if ($before -ge $TotalBytes) {
    Write-Output "$Name has $($before / 1mb) MiB already."
    return
}
if ($PSCmdlet.ShouldProcess($Name, "raise memory to $($TotalBytes / 1mb) MiB")) {
    Set-VMMemory -VMName $Name -StartupBytes $TotalBytes
    Wait-Until -What "The guest's taking of the memory" -TimeoutSeconds $TimeoutSeconds -Condition {
        (Get-VM -Name $Name).MemoryAssigned -ge $TotalBytes
    }
    Write-Output "$Name has $($TotalBytes / 1mb) MiB, and had $($before / 1mb) MiB."
}
