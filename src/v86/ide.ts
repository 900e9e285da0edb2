/** Taking v86's own IDE controller out of the machine. */
import { BlockError } from '../block/error.ts'
import { member, type PortEntry, type V86Cpu } from './internals.ts'

/** 00:1e.0, where v86 has its IDE function. */
const BUILTIN_BDF = 0x1e << 3
const BUILTIN_PORTS = [
  [0x1f0, 8],
  [0x3f6, 1],
  [0x170, 8],
  [0x376, 1],
  [0xb400, 16],
] as const

/** What v86 looks at when it saves a state. */
class NoIde {
  readonly primary = undefined
  readonly secondary = undefined
  get_state(): unknown[] {
    return []
  }
  set_state(): void {}
}

/** Removes the controller with all that hangs on it; returns what puts it back. Throws a BlockError if v86 was given disks for it. */
export function removeBuiltinIde(cpu: V86Cpu): () => void {
  const { io, devices } = cpu
  const { pci } = devices
  const { ide, cdrom } = devices
  for (const channel of ['primary', 'secondary']) {
    for (const unit of ['master', 'slave']) {
      if (!member(member(member(ide, channel), unit), 'buffer')) continue
      throw new BlockError(
        'EBUSY',
        'Cannot attach IDE drives: v86 has its own IDE disks; attach them here instead of giving v86 hda, hdb or cdrom',
      )
    }
  }
  const device = pci.devices[BUILTIN_BDF]
  const space = pci.device_spaces[BUILTIN_BDF]
  const own = [ide, member(ide, 'primary'), member(ide, 'secondary')]
  const entries: [port: number, entry: PortEntry][] = []
  for (const [first, count] of BUILTIN_PORTS) {
    for (let port = first; port < first + count; port++) {
      const entry = io.ports[port]!
      if (entry.device === undefined || !own.includes(entry.device)) continue
      entries.push([port, entry])
      io.ports[port] = io.create_empty_entry()
    }
  }
  pci.devices[BUILTIN_BDF] = undefined
  pci.device_spaces[BUILTIN_BDF] = undefined
  devices.ide = new NoIde()
  devices.cdrom = undefined
  return () => {
    for (const [port, entry] of entries) io.ports[port] = entry
    pci.devices[BUILTIN_BDF] = device
    pci.device_spaces[BUILTIN_BDF] = space
    devices.ide = ide
    devices.cdrom = cdrom
  }
}
