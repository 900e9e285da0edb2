/** GRUB in the sectors before the first partition, put there without running any installer. */
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { DISK_BYTES, DISK_SIGNATURE, PARTITION_BYTES } from './recipe.ts'
import type { Tool } from './tools.ts'

export const SECTOR = 512

/** How GRUB reaches what it boots from: through the BIOS, with its own ATA driver, or from a CD-ROM through the BIOS. */
export type GrubKind = 'bios' | 'ata' | 'cd'

/** Last sector before the partition: text that GRUB and `argumentsSector` share. */
const ARGUMENTS_SECTOR = PARTITION_BYTES / SECTOR - 1

/** ATA is in two: what a drive speaks, and the controllers that pass it on. */
const KINDS = {
  bios: { format: 'i386-pc', disk: 'hd0', modules: ['biosdisk', 'ext2', 'part_msdos'] },
  ata: { format: 'i386-pc', disk: 'ata0', modules: ['ata', 'pata', 'ext2', 'part_msdos'] },
  cd: { format: 'i386-pc-eltorito', disk: undefined, modules: ['biosdisk', 'iso9660'] },
} as const
const MODULES = ['configfile', 'echo', 'linux', 'normal', 'serial', 'terminal', 'test']
const GRUB_FOLDER = 'usr/lib/grub/i386-pc'
const BOOT_CODE_BYTES = 440
const SIGNATURE_OFFSET = 440
const PARTITION_TABLE_OFFSET = 446
const LINUX_PARTITION = 0x83
const ACTIVE = 0x80

/** GRUB's configuration file on the root. */
export function grubConfig(kernelArguments: readonly string[]): string {
  return `linux /boot/vmlinuz ${kernelArguments.join(' ')} $arguments
initrd /boot/initrd.img
boot
`
}

/** GRUB's core. `unpacked` holds Debian's `grub-pc-bin`, `scratch` takes intermediate files. */
export async function grubImage(tool: Tool, unpacked: string, kind: GrubKind, scratch: string): Promise<Buffer> {
  const { format, disk, modules } = KINDS[kind]
  const early = join(scratch, `early-${kind}.cfg`)
  const image = join(scratch, `core-${kind}.img`)
  await writeFile(
    early,
    `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
${disk ? `source (${disk})${ARGUMENTS_SECTOR}+1` : ''}
source /boot/grub/grub.cfg
`,
  )
  const prefix = disk ? `(${disk},msdos1)/boot/grub` : '/boot/grub'
  const places = ['-O', format, '-d', join(unpacked, GRUB_FOLDER), '-p', prefix, '-c', early, '-o', image]
  await tool('usr/bin/grub-mkimage', [...places, ...modules, ...MODULES])
  return readFile(image)
}

/**
 * The disk's first bytes, up to the partition: MBR with boot code and partition table, GRUB's core, and an empty list of
 * further kernel arguments.
 */
export async function bootArea(tool: Tool, unpacked: string, kind: 'bios' | 'ata', scratch: string): Promise<Buffer> {
  const core = await grubImage(tool, unpacked, kind, scratch)
  const area = Buffer.alloc(PARTITION_BYTES)
  if (SECTOR + core.length > ARGUMENTS_OFFSET) {
    throw new Error(`GRUB's core of ${core.length} bytes does not fit before the partition`)
  }
  // boot.img expects the core in sector 1, and the core's first sector expects the rest behind itself: no block lists.
  area.set((await readFile(join(unpacked, GRUB_FOLDER, 'boot.img'))).subarray(0, BOOT_CODE_BYTES), 0)
  area.writeUInt32LE(DISK_SIGNATURE, SIGNATURE_OFFSET)
  area.set(partitionEntry(PARTITION_BYTES / SECTOR, (DISK_BYTES - PARTITION_BYTES) / SECTOR), PARTITION_TABLE_OFFSET)
  area.writeUInt16LE(0xaa55, SECTOR - 2)
  area.set(core, SECTOR)
  area.set(argumentsSector(''), ARGUMENTS_OFFSET)
  return area
}

/** Where on the disk further kernel arguments lie, in bytes. */
export const ARGUMENTS_OFFSET = ARGUMENTS_SECTOR * SECTOR

/**
 * The sector to write at `ARGUMENTS_OFFSET` of a guest's disk (a copy: the one in the cache is shared) so that GRUB adds
 * the text to the kernel command line; later arguments win over earlier ones.
 */
export function argumentsSector(text: string): Buffer {
  if (!/^[\x20-\x7e]*$/.test(text) || text.includes("'")) {
    throw new Error(`Kernel arguments are printable ASCII without ': ${JSON.stringify(text)}`)
  }
  const line = `set arguments='${text}'\n`
  if (line.length > SECTOR) throw new Error(`Kernel arguments of ${text.length} bytes do not fit into one sector`)
  return Buffer.from(line.padEnd(SECTOR, '\n'))
}

/** One active Linux entry of an MBR partition table; CHS fields say "use LBA", as beyond their reach. */
function partitionEntry(first: number, sectors: number): Buffer {
  const entry = Buffer.alloc(16)
  entry.set([ACTIVE, 0xfe, 0xff, 0xff, LINUX_PARTITION, 0xfe, 0xff, 0xff])
  entry.writeUInt32LE(first, 8)
  entry.writeUInt32LE(sectors, 12)
  return entry
}
