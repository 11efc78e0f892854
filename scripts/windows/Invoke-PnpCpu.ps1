<#
.SYNOPSIS
Hot-adds processors in any virtual machine with PNPCPU of the Windows Driver Kit. Run it in the guest.

.DESCRIPTION
Install leaves one processor from the next start on; Add, after that start, adds all others, once for each start; Uninstall undoes Install.

.PARAMETER Step
Install, Add or Uninstall.

.PARAMETER PnpCpu
pnpcpu.exe, in a folder with bus.inf, busenum.sys, delta.cat, pnpcpu.sys and processor.inf, which come with it.

.PARAMETER Restart
Restarts the computer at once after Install and Uninstall.

.EXAMPLE
.\Invoke-PnpCpu.ps1 -Step Install -Restart

.EXAMPLE
.\Invoke-PnpCpu.ps1 -Step Add
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [Parameter(Mandatory)] [ValidateSet('Install', 'Add', 'Uninstall')] [string] $Step,
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $PnpCpu,
    [switch] $Restart
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

function Get-ProcessorCount {
    # How many logical processors Windows uses now.
    [int] (Get-CimInstance -ClassName Win32_ComputerSystem).NumberOfLogicalProcessors
}

Assert-Administrator
$tool = if ($PnpCpu) { (Resolve-Path -LiteralPath $PnpCpu).ProviderPath } else { Find-KitTool -Name 'pnpcpu.exe' }
$before = Get-ProcessorCount
if ($Step -eq 'Add' -and $before -ne 1) {
    throw "Windows uses $before processors: PNPCPU adds them to one. Run this with -Step Install, restart, and add then, once."
}
if ($PSCmdlet.ShouldProcess('this computer', "pnpcpu -$($Step.ToLowerInvariant())")) {
    # It finds its files in the current folder only.
    Push-Location -LiteralPath (Split-Path -Parent $tool)
    try {
        Invoke-Tool -Path $tool -ArgumentList "-$($Step.ToLowerInvariant())"
    }
    finally {
        Pop-Location
    }
    if ($Step -ne 'Add') {
        if ($Restart) {
            Restart-Computer -Force
        }
        Write-Output 'It takes effect with the next start: Restart-Computer.'
        return
    }
    Wait-Until -What 'The addition of a processor' -TimeoutSeconds 60 -Condition { (Get-ProcessorCount) -gt 1 }
    Write-Output "Windows uses $(Get-ProcessorCount) processors, and used $before."
}
