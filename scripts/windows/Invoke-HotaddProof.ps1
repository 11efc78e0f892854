<#
.SYNOPSIS
Keeps the driver under load while hardware is added, and proves what it promises. Run it in the guest, add the hardware meanwhile.

.DESCRIPTION
Sends requests, each of which hotaddctl checks, until the added hardware has arrived at the driver, and some more after that. Then runs
hotaddctl's self-test. Keeps the status before and after and every event in a folder. Ends with an error where a promise was broken or
nothing arrived.

.PARAMETER Expect
What will be added: a processor, or memory.

.PARAMETER Folder
Where the evidence goes; a new folder below the current one if none is given.

.PARAMETER Tool
Where hotaddctl.exe is.

.PARAMETER Device
The device's index in `hotaddctl list`.

.PARAMETER TimeoutSeconds
How long the hardware may take to come.

.PARAMETER RoundsAfter
How many rounds of requests follow the arrival.

.EXAMPLE
.\Invoke-HotaddProof.ps1 -Expect Processor
#>
[CmdletBinding(SupportsShouldProcess)]
param(
    [Parameter(Mandatory)] [ValidateSet('Processor', 'Memory')] [string] $Expect,
    [ValidateNotNullOrEmpty()] [string] $Folder = (Join-Path (Get-Location) "hotadd-$(Get-Date -Format 'yyyyMMdd-HHmmss')"),
    [ValidateScript({ Test-Path -LiteralPath $_ -PathType Leaf })] [string] $Tool = (Join-Path $PSScriptRoot 'hotaddctl.exe'),
    [ValidateRange(0, 1000)] [int] $Device = 0,
    [ValidateRange(10, 86400)] [int] $TimeoutSeconds = 900,
    [ValidateRange(1, 1000)] [int] $RoundsAfter = 20
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
Import-Module (Join-Path $PSScriptRoot 'HotAdd.psm1') -Force

function Send-Round {
    # One of each kind of request, many times; hotaddctl ends with an error where an answer is wrong.
    foreach ($kind in 'factorial', 'read', 'write') {
        Invoke-Tool -Path $Tool -ArgumentList 'send', $kind, '--count', '1000', '--json', '--device', "$Device" |
            Add-Content -LiteralPath (Join-Path $Folder 'requests.txt')
    }
}

function Save-Status {
    # Writes the status to a file, and returns it.
    param([Parameter(Mandatory)] [string] $Name)

    $status = Get-HotaddStatus -Tool $Tool -Device $Device
    $status | ConvertTo-Json -Depth 8 | Set-Content -LiteralPath (Join-Path $Folder "$Name.json")
    $status
}

function Test-Arrival {
    # Whether what is expected has arrived at the driver.
    param([Parameter(Mandatory)] $Before, [Parameter(Mandatory)] $Now)

    if ($Expect -eq 'Memory') {
        return $Now.memory_bytes -gt $Before.memory_bytes
    }
    $Now.processors_active -gt $Before.processors_active -and $Now.processors_steered -eq $Now.processors_active
}

function Get-IdleProcessor {
    # The processors that did no request between two states.
    param([Parameter(Mandatory)] $Before, [Parameter(Mandatory)] $After)

    $count = {
        param($Status)
        $requests = @{}
        foreach ($group in $Status.groups.PSObject.Properties) {
            foreach ($node in $group.Value.PSObject.Properties) {
                foreach ($processor in $node.Value) { $requests[[int] $processor.index] = [long] $processor.requests }
            }
        }
        $requests
    }
    $old = & $count $Before
    $new = & $count $After
    $new.Keys | Where-Object { $new[$_] -le [long] $old[$_] } | Sort-Object
}

Assert-Administrator
if (-not $PSCmdlet.ShouldProcess("device $Device", "requests until a $($Expect.ToLowerInvariant()) arrives")) {
    return
}
New-Item -ItemType Directory -Path $Folder -Force | Out-Null
$before = Save-Status -Name 'before'
$watch = Start-Process -FilePath $Tool -ArgumentList "watch --json --from $($before.journal_next) --device $Device" -PassThru -NoNewWindow `
    -RedirectStandardOutput (Join-Path $Folder 'events.jsonl') -RedirectStandardError (Join-Path $Folder 'watch.txt')
try {
    Write-Output "Requests are flowing. Now add the $($Expect.ToLowerInvariant()); there are $TimeoutSeconds s."
    $script:now = $before
    Wait-Until -What "The arrival of a $($Expect.ToLowerInvariant()) at the driver" -TimeoutSeconds $TimeoutSeconds -Condition {
        Send-Round
        $script:now = Get-HotaddStatus -Tool $Tool -Device $Device
        Test-Arrival -Before $before -Now $script:now
    }
    $arrived = Save-Status -Name 'arrived'
    for ($round = 0; $round -lt $RoundsAfter; $round++) {
        Send-Round
    }
    $after = Save-Status -Name 'after'
    Invoke-Tool -Path $Tool -ArgumentList 'selftest', '--device', "$Device" | Tee-Object -FilePath (Join-Path $Folder 'selftest.txt')
}
finally {
    if (-not $watch.HasExited) {
        Stop-Process -InputObject $watch
    }
}

$broken = @()
if ($after.failed -gt $before.failed) {
    $broken += "$($after.failed - $before.failed) requests failed."
}
if ($after.timeouts -gt $before.timeouts) {
    $broken += "The device did not answer $($after.timeouts - $before.timeouts) times."
}
if ($after.gate -ne 'running') {
    $broken += "The gate is $($after.gate)."
}
$idle = @(Get-IdleProcessor -Before $arrived -After $after)
if ($Expect -eq 'Processor' -and $idle.Count -gt 0) {
    Write-Warning "Processors $($idle -join ', ') finished no request since. With a line interrupt on a fixed processor that is so."
}
[pscustomobject]@{
    Processors = "$($before.processors_active) -> $($after.processors_active)"
    MemoryMiB = "$([long] ($before.memory_bytes / 1mb)) -> $([long] ($after.memory_bytes / 1mb))"
    PoolKiB = "$([long] ($before.pool_bytes / 1kb)) -> $([long] ($after.pool_bytes / 1kb))"
    Rebalances = $after.rebalances - $before.rebalances
    Requests = $after.completed - $before.completed
    LastHoldMicroseconds = $after.last_hold_us
    Evidence = $Folder
}
if ($broken.Count -gt 0) {
    throw "A promise was broken: $($broken -join ' ')"
}
