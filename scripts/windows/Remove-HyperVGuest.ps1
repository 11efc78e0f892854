<#
.SYNOPSIS
Stops and deletes the virtual machine that New-HyperVGuest.ps1 made, and its disk if that is wanted. Run it on the host.

.PARAMETER Name
The virtual machine's name.

.PARAMETER DeleteDisk
Deletes its virtual disks too.

.EXAMPLE
.\Remove-HyperVGuest.ps1 -Name hotadd -DeleteDisk
#>
[CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'High')]
param(
    [ValidateNotNullOrEmpty()] [string] $Name = 'hotadd',
    [switch] $DeleteDisk
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

Assert-Administrator
$vm = Get-VM -Name $Name -ErrorAction SilentlyContinue
if (-not $vm) {
    Write-Output "There is no virtual machine $Name."
    return
}
$disks = @(Get-VMHardDiskDrive -VMName $Name | ForEach-Object { $_.Path })
if ($PSCmdlet.ShouldProcess($Name, 'stop and delete the virtual machine')) {
    if ($vm.State -ne 'Off') {
        Stop-VM -Name $Name -TurnOff -Force
    }
    Remove-VM -Name $Name -Force
    if ($DeleteDisk) {
        $disks | Where-Object { Test-Path -LiteralPath $_ } | Remove-Item
    }
}
