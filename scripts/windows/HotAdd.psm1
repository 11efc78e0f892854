# What the scripts beside this file share. Windows PowerShell 5.1 and PowerShell 7.

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# The devices that the driver serves.
$script:HardwareIds = 'PCI\VEN_1234&DEV_11E8', 'ROOT\HOTADD'

function Assert-Administrator {
    <#
    .SYNOPSIS
    Ends the script where it does not run as administrator.
    #>
    [CmdletBinding()]
    param()

    $identity = [Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = [Security.Principal.WindowsPrincipal]::new($identity)
    if (-not $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'This needs administrator rights: start PowerShell with "Run as administrator".'
    }
}

function Invoke-Tool {
    <#
    .SYNOPSIS
    Runs a program; returns the lines it prints, and ends the script where it fails.
    .PARAMETER Path
    The program.
    .PARAMETER ArgumentList
    Its arguments.
    .PARAMETER SuccessCode
    The exit codes that are no failures.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory)] [ValidateNotNullOrEmpty()] [string] $Path,
        [string[]] $ArgumentList = @(),
        [int[]] $SuccessCode = @(0)
    )

    Write-Verbose "$Path $ArgumentList"
    # Standard error goes to the console: redirected, Windows PowerShell would take its first line for a failure.
    $output = @(& $Path @ArgumentList)
    if ($LASTEXITCODE -notin $SuccessCode) {
        throw "$Path $ArgumentList ended with exit code $LASTEXITCODE. It said: $($output -join [Environment]::NewLine)"
    }
    $output
}

function Find-KitTool {
    <#
    .SYNOPSIS
    The path of a tool of the Windows Driver Kit: beside the scripts, in the path, or the newest one installed.
    .PARAMETER Name
    The tool's file name.
    #>
    [CmdletBinding()]
    param([Parameter(Mandatory)] [ValidatePattern('\.exe$')] [string] $Name)

    $beside = Join-Path $PSScriptRoot $Name
    if (Test-Path -LiteralPath $beside -PathType Leaf) {
        return $beside
    }
    $known = Get-Command -Name $Name -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
    if ($known) {
        return $known.Source
    }
    $tools = Join-Path ${env:ProgramFiles(x86)} 'Windows Kits\10\Tools'
    $found = Get-ChildItem -Path $tools -Filter $Name -Recurse -File -ErrorAction SilentlyContinue |
        Where-Object { $_.Directory.Name -eq 'x64' } |
        Sort-Object -Property FullName -Descending | Select-Object -First 1
    if (-not $found) {
        throw "$Name is not here. It comes with the Windows Driver Kit (Windows Kits\10\Tools): copy it to $PSScriptRoot."
    }
    $found.FullName
}

function Get-HotaddDevice {
    <#
    .SYNOPSIS
    The devices that are present and that the driver serves.
    #>
    [CmdletBinding()]
    param()

    Get-PnpDevice -PresentOnly | Where-Object {
        $ids = @($_.HardwareID)
        @($script:HardwareIds | Where-Object { $ids -contains $_ }).Count -gt 0
    }
}

function Get-HotaddStatus {
    <#
    .SYNOPSIS
    What the driver says of itself and of one of its devices.
    .PARAMETER Tool
    Where hotaddctl.exe is.
    .PARAMETER Device
    The device's index in `hotaddctl list`.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory)] [ValidateNotNullOrEmpty()] [string] $Tool,
        [ValidateRange(0, 1000)] [int] $Device = 0
    )

    $json = Invoke-Tool -Path $Tool -ArgumentList 'status', '--json', '--device', "$Device"
    $json -join "`n" | ConvertFrom-Json
}

function Wait-Until {
    <#
    .SYNOPSIS
    Waits until a condition holds, and ends the script where it does not in time.
    .PARAMETER What
    What is waited for, for the error.
    .PARAMETER Condition
    The condition.
    .PARAMETER TimeoutSeconds
    How long to wait at most.
    #>
    [CmdletBinding()]
    param(
        [Parameter(Mandatory)] [ValidateNotNullOrEmpty()] [string] $What,
        [Parameter(Mandatory)] [scriptblock] $Condition,
        [ValidateRange(1, 86400)] [int] $TimeoutSeconds = 60
    )

    $deadline = (Get-Date).AddSeconds($TimeoutSeconds)
    while (-not (& $Condition)) {
        if ((Get-Date) -gt $deadline) {
            throw "$What did not happen within $TimeoutSeconds s."
        }
        Start-Sleep -Milliseconds 250
    }
}

Export-ModuleMember -Function Assert-Administrator, Invoke-Tool, Find-KitTool, Get-HotaddDevice, Get-HotaddStatus, Wait-Until
