/** A CD-ROM that boots by El Torito: the same kernel and initial RAM disk, whose shell is all of its system. */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { grubConfig, grubImage } from './grub.ts'
import { KERNEL_ARGUMENTS } from './recipe.ts'
import type { Tool } from './tools.ts'

/** A file on the CD-ROM whose bytes anybody can tell: the SHA-256 of 0, 1, 2, ... as decimal text, one after another. */
export const CD_PATTERN_PATH = 'pattern.bin'
export const CD_PATTERN_BYTES = 2 * 1024 * 1024

const DATE = '1970010100000100'

interface CdParts {
  readonly kernel: string
  readonly initrd: string
  /** Where Debian's `grub-pc-bin` was unpacked. */
  readonly unpacked: string
  readonly scratch: string
}

/** Makes the ISO 9660 image `target`. */
export async function makeCd(
  tool: Tool,
  target: string,
  { kernel, initrd, unpacked, scratch }: CdParts,
): Promise<void> {
  const tree = join(scratch, 'cd')
  await mkdir(join(tree, 'boot/grub'), { recursive: true })
  await copyFile(kernel, join(tree, 'boot/vmlinuz'))
  await copyFile(initrd, join(tree, 'boot/initrd.img'))
  await writeFile(join(tree, 'boot/grub/grub.cfg'), grubConfig(['root=cd', ...KERNEL_ARGUMENTS]))
  await writeFile(join(tree, 'boot/grub/eltorito.img'), await grubImage(tool, unpacked, 'cd', scratch))
  await writeFile(join(tree, CD_PATTERN_PATH), cdPattern())
  await tool('usr/bin/xorriso', [
    ...['-report_about', 'WARNING', '-as', 'mkisofs', '-quiet', '-o', target, '-V', 'BLOCK86', '-R', '-J'],
    ...['--set_all_file_dates', DATE, `--modification-date=${DATE}`, '-uid', '0', '-gid', '0'],
    ...['-b', 'boot/grub/eltorito.img', '-no-emul-boot', '-boot-load-size', '4', '-boot-info-table'],
    tree,
  ])
}

/** The bytes of the file at `CD_PATTERN_PATH`. */
export function cdPattern(): Buffer {
  const blocks: Buffer[] = []
  for (let at = 0; at * 32 < CD_PATTERN_BYTES; at++) blocks.push(createHash('sha256').update(String(at)).digest())
  return Buffer.concat(blocks)
}
