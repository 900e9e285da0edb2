/** What the firmware is told: the order in which to try boot devices, through a file of QEMU's fw_cfg. */
import type { V86Cpu } from './internals.ts'

const BOOT_ORDER = 'bootorder'
/** The option ROM that v86 makes of a kernel given to it directly. */
const KERNEL_ROMS = ['genroms/kernel.bin', 'genroms/multiboot.bin']

/** A boot device as SeaBIOS names it; lower indices are tried first. */
export interface BootEntry {
  readonly index: number
  readonly path: string
}

const ordered = new WeakMap<V86Cpu, BootEntry[]>()

/** The open firmware path of a PCI function on bus 0, with any name; `below` is what is behind it. */
export function pciPath(bdf: number, below: string): string {
  const slot = (bdf >> 3).toString(16)
  const place = (bdf & 7) === 0 ? slot : `${slot},${(bdf & 7).toString(16)}`
  return `/pci@i0cf8/*@${place}/${below}`
}

/** Adds to the firmware's boot order; a kernel that v86 boots directly stays first. */
export function orderBoot(cpu: V86Cpu, entries: readonly BootEntry[]): void {
  if (entries.length === 0) return
  const all = ordered.get(cpu) ?? []
  all.push(...entries)
  all.sort((a, b) => a.index - b.index)
  ordered.set(cpu, all)
  const kernels = cpu.option_roms.filter(({ name }) => KERNEL_ROMS.includes(name)).map(({ name }) => `/rom@${name}`)
  const lines = [...kernels, ...all.map(({ path }) => path)]
  const data = new TextEncoder().encode(`${lines.join('\n')}\0`)
  const file = cpu.option_roms.find(({ name }) => name === BOOT_ORDER)
  if (file === undefined) cpu.option_roms.push({ name: BOOT_ORDER, data })
  else file.data = data
}
