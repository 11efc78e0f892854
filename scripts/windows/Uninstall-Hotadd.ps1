<#
.SYNOPSIS
Takes hotadd off a test machine: devices, driver package, and with -Everything verifier, certificate and test signing. Run it in the guest.

.PARAMETER Everything
Also resets Driver Verifier, distrusts the certificate and refuses test signatures again, from the next start on.

.PARAMETER Certificate
The certificate to distrust, as Install-Hotadd.ps1 was given it; needed with -Everything.

.EXAMPLE
.\Uninstall-Hotadd.ps1

.EXAMPLE
.\Uninstall-Hotadd.ps1 -Everything -Certificate C:\hotadd\hotadd.cer
#>
[CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'High')]
param(
    [switch] $Everything,
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $Certificate
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

Assert-Administrator
if ($Everything -and -not $Certificate) {
    throw '-Everything needs -Certificate, the file that Install-Hotadd.ps1 was given.'
}
foreach ($device in @(Get-HotaddDevice | Where-Object { $_.InstanceId -like 'ROOT\*' })) {
    if ($PSCmdlet.ShouldProcess($device.InstanceId, 'remove the device')) {
        # 3010: done, and it takes a restart.
        Invoke-Tool -Path 'pnputil.exe' -ArgumentList '/remove-device', $device.InstanceId -SuccessCode 0, 3010 | Write-Verbose
    }
}
# Packages are named oemN.inf in the store; what they were called says the class installer's record.
foreach ($driver in @(Get-WindowsDriver -Online | Where-Object { (Split-Path -Leaf $_.OriginalFileName) -eq 'hotadd.inf' })) {
    if ($PSCmdlet.ShouldProcess($driver.Driver, 'delete the driver package')) {
        Invoke-Tool -Path 'pnputil.exe' -ArgumentList '/delete-driver', $driver.Driver, '/uninstall' -SuccessCode 0, 3010 | Write-Verbose
    }
}
if ($Everything -and $PSCmdlet.ShouldProcess('this computer', 'reset Driver Verifier, distrust the certificate, refuse test signatures')) {
    Invoke-Tool -Path 'verifier.exe' -ArgumentList '/reset' -SuccessCode 0, 2 | Write-Verbose
    $thumbprint = [Security.Cryptography.X509Certificates.X509Certificate2]::new((Resolve-Path -LiteralPath $Certificate).ProviderPath).Thumbprint
    'Root', 'TrustedPublisher' | ForEach-Object { "Cert:\LocalMachine\$_\$thumbprint" } | Where-Object { Test-Path -Path $_ } | Remove-Item
    Invoke-Tool -Path 'bcdedit.exe' -ArgumentList '/set', 'testsigning', 'off' | Write-Verbose
    Write-Output 'Done, with the next start: Restart-Computer.'
}
