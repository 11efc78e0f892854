<#
.SYNOPSIS
Collects what tells how hotadd fared: status, events, device, verifier, logs and dumps. Run it in the guest.

.PARAMETER Folder
Where it goes; a new folder below the current one if none is given.

.PARAMETER Tool
Where hotaddctl.exe is.

.EXAMPLE
.\Save-HotaddEvidence.ps1 -Folder C:\evidence
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [ValidateNotNullOrEmpty()] [string] $Folder = (Join-Path (Get-Location) "evidence-$(Get-Date -Format 'yyyyMMdd-HHmmss')"),
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $Tool = (Join-Path $PSScriptRoot 'hotaddctl.exe')
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

function Save-Part {
    # Writes what a block returns to a file, or why there is nothing: one part that is missing does not cost the others.
    param([Parameter(Mandatory)] [string] $Name, [Parameter(Mandatory)] [scriptblock] $Block)

    $file = Join-Path $Folder $Name
    try {
        & $Block | Out-String -Width 300 | Set-Content -LiteralPath $file
    }
    catch {
        "Not collected: $_" | Set-Content -LiteralPath $file
        Write-Warning "${Name}: $_"
    }
}

Assert-Administrator
if (-not $PSCmdlet.ShouldProcess($Folder, 'collect evidence')) {
    return
}
New-Item -ItemType Directory -Path $Folder -Force | Out-Null
Save-Part -Name 'system.txt' -Block { Get-CimInstance -ClassName Win32_OperatingSystem | Format-List -Property Caption, Version, BuildNumber, LastBootUpTime }
Save-Part -Name 'list.json' -Block { Invoke-Tool -Path $Tool -ArgumentList 'list', '--json' }
Save-Part -Name 'status.json' -Block { Invoke-Tool -Path $Tool -ArgumentList 'status', '--json' }
Save-Part -Name 'verifier.txt' -Block { Invoke-Tool -Path 'verifier.exe' -ArgumentList '/query' }
Save-Part -Name 'devices.txt' -Block { Get-HotaddDevice | Get-PnpDeviceProperty | Format-Table -Property InstanceId, KeyName, Data -AutoSize }
Save-Part -Name 'drivers.txt' -Block { Invoke-Tool -Path 'pnputil.exe' -ArgumentList '/enum-drivers' }
Save-Part -Name 'processors.txt' -Block { Get-PnpDevice -Class Processor | Format-Table -Property Status, Problem, InstanceId -AutoSize }
Save-Part -Name 'events.txt' -Block {
    Get-WinEvent -FilterHashtable @{ LogName = 'System'; StartTime = (Get-Date).AddDays(-1) } |
        Where-Object { $_.Message -match 'hotadd' -or $_.Id -eq 1001 } | Format-List -Property TimeCreated, Id, ProviderName, Message
}
Save-Part -Name 'copied.txt' -Block {
    $logs = "$env:windir\inf\setupapi.dev.log", "$env:windir\MEMORY.DMP", "$env:windir\Minidump\*.dmp"
    Get-Item -Path $logs -ErrorAction SilentlyContinue | Copy-Item -Destination $Folder -PassThru
}
Write-Output "Collected in $Folder."
