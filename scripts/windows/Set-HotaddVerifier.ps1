<#
.SYNOPSIS
Puts the driver under Driver Verifier, or takes it out. Takes effect with the next start. Run it in the guest.

.PARAMETER Mode
Standard: the standard rules, DDI compliance among them. Additional: those, and the additional rules of DDI compliance and pending I/O
requests by force. Faults: the standard rules, and kernel calls that fail at random. SystematicFaults: the standard rules, and each kernel
call failing once from each call stack (Windows 11 and Windows Server 2025). Off: none.

.PARAMETER Restart
Restarts the computer at once.

.EXAMPLE
.\Set-HotaddVerifier.ps1 -Mode Standard -Restart
#>
[CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'Medium')]
param(
    [Parameter(Mandatory)] [ValidateSet('Standard', 'Additional', 'Faults', 'SystematicFaults', 'Off')] [string] $Mode,
    [switch] $Restart
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

# verifier's rule classes. 1: special pool, 2: forced IRQL checking, 4: pool tracking, 5: I/O verification, 6: deadlock detection,
# 8: DMA checking, 9: security checks, 12: miscellaneous checks, 18: DDI compliance.
$standard = '1', '2', '4', '5', '6', '8', '9', '12', '18'
$arguments = switch ($Mode) {
    'Standard' { '/standard', '/driver', 'hotadd.sys' }
    # 10: pending I/O requests by force, 20: additional DDI compliance.
    'Additional' { @('/ruleclasses') + $standard + '10', '20', '/driver', 'hotadd.sys' }
    # 3: low resources at random, 6 in 100 calls.
    'Faults' { @('/ruleclasses') + $standard + '3', '/driver', 'hotadd.sys' }
    # 19: low resources systematically, 36: what that is built on.
    'SystematicFaults' { @('/ruleclasses') + $standard + '19', '36', '/driver', 'hotadd.sys' }
    'Off' { '/reset' }
}

Assert-Administrator
if ($PSCmdlet.ShouldProcess('hotadd.sys', "Driver Verifier: $Mode")) {
    # 2: done, and it takes a restart.
    Invoke-Tool -Path 'verifier.exe' -ArgumentList $arguments -SuccessCode 0, 2
    if ($Restart) {
        Restart-Computer -Force
    }
    else {
        Write-Output 'It takes effect with the next start: Restart-Computer. Then `verifier /query` must name hotadd.sys, unless it is off.'
    }
}
