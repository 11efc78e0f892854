<#
.SYNOPSIS
Adds a processor or a memory module to a running QEMU virtual machine. Run it on the host, on Windows or Linux.

.DESCRIPTION
Speaks QMP over TCP with a machine that was started with `-qmp tcp:127.0.0.1:4444,server=on,wait=off`, a larger maxcpus than processors,
and free memory slots; docs/windows.md has the command line.

.PARAMETER Processor
Adds a processor, in the first free place.

.PARAMETER MemoryBytes
Adds a memory module of this size.

.PARAMETER Port
QMP's port on this computer.

.EXAMPLE
.\Add-QemuHardware.ps1 -Processor

.EXAMPLE
.\Add-QemuHardware.ps1 -MemoryBytes 1gb
#>
[CmdletBinding(SupportsShouldProcess, DefaultParameterSetName = 'Processor')]
param(
    [Parameter(Mandatory, ParameterSetName = 'Processor')] [switch] $Processor,
    [Parameter(Mandatory, ParameterSetName = 'Memory')] [ValidateRange(128mb, 64gb)] [long] $MemoryBytes,
    [ValidateRange(1, 65535)] [int] $Port = 4444
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Send-Qmp {
    # Sends a command; returns what QEMU answers, and skips the events before it.
    param([Parameter(Mandatory)] [string] $Command, [hashtable] $Arguments = @{})

    $request = @{ execute = $Command; arguments = $Arguments } | ConvertTo-Json -Depth 5 -Compress
    Write-Verbose $request
    $writer.WriteLine($request)
    while ($null -ne ($line = $reader.ReadLine())) {
        Write-Verbose $line
        $answer = $line | ConvertFrom-Json
        if ($answer.PSObject.Properties['error']) {
            throw "QEMU refuses ${Command}: $($answer.error.desc)"
        }
        if ($answer.PSObject.Properties['return']) {
            return $answer.return
        }
    }
    throw 'QEMU has closed the connection.'
}

function Add-Processor {
    # Adds a processor in the free place with the lowest numbers.
    $free = @(Send-Qmp -Command 'query-hotpluggable-cpus' | Where-Object { -not $_.PSObject.Properties['qom-path'] })
    if ($free.Count -eq 0) {
        throw 'Every place for a processor is taken: start QEMU with a larger maxcpus.'
    }
    $place = $free | Sort-Object -Property { $_.props.'socket-id' }, { $_.props.'core-id' } | Select-Object -First 1
    $arguments = @{ driver = $place.type; id = "cpu-$([guid]::NewGuid().ToString('N'))" }
    # The node goes with the place.
    foreach ($property in $place.props.PSObject.Properties | Where-Object { $_.Name -ne 'node-id' }) {
        $arguments[$property.Name] = $property.Value
    }
    Send-Qmp -Command 'device_add' -Arguments $arguments | Out-Null
    Write-Output "Added a processor; $($free.Count - 1) places are left."
}

function Add-Memory {
    # Adds a module over memory of its own.
    $id = [guid]::NewGuid().ToString('N')
    Send-Qmp -Command 'object-add' -Arguments @{ 'qom-type' = 'memory-backend-ram'; id = "mem-$id"; size = $MemoryBytes } | Out-Null
    try {
        Send-Qmp -Command 'device_add' -Arguments @{ driver = 'pc-dimm'; id = "dimm-$id"; memdev = "mem-$id" } | Out-Null
    }
    catch {
        Send-Qmp -Command 'object-del' -Arguments @{ id = "mem-$id" } | Out-Null
        throw
    }
    Write-Output "Added a module of $($MemoryBytes / 1mb) MiB."
}

$client = [Net.Sockets.TcpClient]::new('127.0.0.1', $Port)
try {
    $stream = $client.GetStream()
    $reader = [IO.StreamReader]::new($stream)
    $writer = [IO.StreamWriter]::new($stream)
    $writer.AutoFlush = $true
    # The greeting.
    $reader.ReadLine() | Write-Verbose
    Send-Qmp -Command 'qmp_capabilities' | Out-Null
    if ($PSCmdlet.ShouldProcess("QEMU on port $Port", "add $($PSCmdlet.ParameterSetName.ToLowerInvariant())")) {
        if ($Processor) { Add-Processor } else { Add-Memory }
    }
}
finally {
    $client.Dispose()
}
