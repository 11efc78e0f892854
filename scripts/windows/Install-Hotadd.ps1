<#
.SYNOPSIS
Installs the driver package on a test machine: trusts its certificate, allows test signatures, adds the driver, makes the software device.
Run it in the guest.

.DESCRIPTION
Run it, restart when it says so, and run it again; what is done already is left alone. At its end there is at least one device of hotadd
without a problem.

.PARAMETER Package
The folder with hotadd.inf, hotadd.sys and hotadd.cat.

.PARAMETER Certificate
The certificate of the one who signed it; the only .cer file in the package or beside it, if none is given.

.PARAMETER NoSoftwareDevice
Makes no software device where there is no edu.

.PARAMETER DevGen
devgen.exe of the Windows Driver Kit, which makes the software device.

.PARAMETER HighMemoryNotification
Sets the parameter that makes the driver look at memory when it is told of plenty: for Hyper-V. Takes effect when the driver is loaded next.

.EXAMPLE
.\Install-Hotadd.ps1 -Package C:\hotadd\package -HighMemoryNotification
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [Parameter(Mandatory)] [ValidateScript({ Test-Path -LiteralPath (Join-Path $_ 'hotadd.inf') -PathType Leaf })] [string] $Package,
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $Certificate,
    [switch] $NoSoftwareDevice,
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $DevGen,
    [switch] $HighMemoryNotification
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

# pnputil's exit codes for: done, nothing better to install, done but a restart is needed.
$pnputilSuccess = 0, 259, 3010

function Test-TestSigning {
    # Whether this boot takes test signatures.
    $options = (Get-ItemProperty -Path 'HKLM:\SYSTEM\CurrentControlSet\Control').SystemStartOptions
    $options -match '(^|\s)TESTSIGNING(\s|$)'
}

function Find-Certificate {
    # The only certificate that comes with the package.
    $folders = $Package, (Split-Path -Parent (Resolve-Path -LiteralPath $Package).ProviderPath)
    foreach ($folder in $folders) {
        $found = @(Get-ChildItem -LiteralPath $folder -Filter '*.cer' -File)
        if ($found.Count -eq 1) {
            return $found[0].FullName
        }
    }
    throw "Neither in $Package nor beside it is exactly one .cer file: name it with -Certificate."
}

function Add-Trust {
    # Makes Windows trust the one who signed the package.
    $file = if ($Certificate) { $Certificate } else { Find-Certificate }
    $wanted = [Security.Cryptography.X509Certificates.X509Certificate2]::new((Resolve-Path -LiteralPath $file).ProviderPath)
    foreach ($store in 'Root', 'TrustedPublisher') {
        if (Test-Path -Path "Cert:\LocalMachine\$store\$($wanted.Thumbprint)") {
            continue
        }
        if ($PSCmdlet.ShouldProcess("LocalMachine\$store", "trust $($wanted.Subject)")) {
            Import-Certificate -FilePath $file -CertStoreLocation "Cert:\LocalMachine\$store" | Out-Null
        }
    }
}

function Add-SoftwareDevice {
    # Makes ROOT\HOTADD where no device of hotadd is there.
    if (@(Get-HotaddDevice).Count -gt 0 -or $NoSoftwareDevice) {
        return
    }
    $tool = if ($DevGen) { $DevGen } else { Find-KitTool -Name 'devgen.exe' }
    if ($PSCmdlet.ShouldProcess('ROOT\HOTADD', 'make a device')) {
        Invoke-Tool -Path $tool -ArgumentList '/add', '/bus', 'ROOT', '/hardwareid', 'ROOT\HOTADD' | Write-Verbose
    }
}

Assert-Administrator
Add-Trust
if (-not (Test-TestSigning)) {
    if ($PSCmdlet.ShouldProcess('this computer', 'allow test signatures')) {
        # Refused while Secure Boot is on.
        Invoke-Tool -Path 'bcdedit.exe' -ArgumentList '/set', 'testsigning', 'on' | Write-Verbose
        Write-Output 'Test signatures are allowed from the next start on. Restart-Computer, then run this again.'
    }
    return
}
Add-SoftwareDevice
$inf = Join-Path (Resolve-Path -LiteralPath $Package).ProviderPath 'hotadd.inf'
if ($PSCmdlet.ShouldProcess($inf, 'add the driver and install it on its devices')) {
    Invoke-Tool -Path 'pnputil.exe' -ArgumentList '/add-driver', $inf, '/install' -SuccessCode $pnputilSuccess | Write-Verbose
    if ($HighMemoryNotification) {
        $parameters = 'HKLM:\SYSTEM\CurrentControlSet\Services\hotadd\Parameters'
        Set-ItemProperty -Path $parameters -Name 'HighMemoryNotification' -Value 1 -Type DWord
        Get-HotaddDevice | ForEach-Object {
            Invoke-Tool -Path 'pnputil.exe' -ArgumentList '/restart-device', $_.InstanceId -SuccessCode $pnputilSuccess | Write-Verbose
        }
    }
    Wait-Until -What 'The start of a device' -TimeoutSeconds 60 -Condition {
        @(Get-HotaddDevice | Where-Object { $_.Status -eq 'OK' }).Count -gt 0
    }
}
Get-HotaddDevice | Select-Object -Property Status, Class, FriendlyName, InstanceId
