/** The Debian guest: a bootable disk made from Debian's own i386 packages, without root and without a container. */
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { cacheDirectory, fingerprint, folderOnce } from '../cache.ts'
import { fetchPackages, hostArchitecture, type Package, unpack, unpackSome } from '../packages.ts'
import { makeCd } from './cd.ts'
import { makeDisk } from './disk.ts'
import { bootArea, grubConfig } from './grub.ts'
import { INIT, packInitrd } from './initrd.ts'
import { kernelPayload, plainKernel } from './kernel.ts'
import { indexModules, installModules } from './modules.ts'
import * as recipe from './recipe.ts'
import { makeRoot, ROOT_FILES } from './rootfs.ts'
import { type Tool, tools } from './tools.ts'

export { CD_PATTERN_BYTES, CD_PATTERN_PATH, cdPattern } from './cd.ts'
export { ARGUMENTS_OFFSET, argumentsSector } from './grub.ts'
export { PARTITION_BYTES, PROMPT, READY_MARK } from './recipe.ts'

export interface DebianGuestOptions {
  /** Where everything is kept; default `cacheDirectory()`. */
  readonly cache?: string
  /** Told what is being done, one short line at a time. */
  readonly onProgress?: (message: string) => void
}

/** A guest in the cache. Its files are shared by everyone: boot from a copy, or with writes kept elsewhere. */
export interface DebianGuest {
  /** Raw disk of 512 MiB, sparse: MBR, GRUB, one partition with ext4. */
  readonly disk: string
  /** SeaBIOS, 128 KiB and 256 KiB, and its VGA BIOS. */
  readonly bios: string
  readonly bios256k: string
  readonly vgabios: string
  /** Kernel and initial RAM disk, also on the disk, and the command line that GRUB gives them. */
  readonly kernel: string
  readonly initrd: string
  readonly append: string
  /** ISO 9660 image that boots into a shell beside itself, mounted on `/cdrom`; `CD_PATTERN_PATH` is a file to check. */
  readonly cd: string
  /** The disk's first 1 MiB with a GRUB that reads through its own ATA driver instead of the BIOS. */
  readonly ataBootArea: string
  readonly kernelVersion: string
  /** Version of every package in the guest, by name. */
  readonly versions: Readonly<Record<string, string>>
}

/** Raised when the builder makes something else of the same packages and texts. */
const LAYOUT = '5'

/**
 * Gives the Debian guest, making it when it is not in the cache. A second call finds it there, without the network and
 * in no time. Throws an Error that says what to do instead where no Debian package client exists.
 */
export async function buildDebianGuest(options: DebianGuestOptions = {}): Promise<DebianGuest> {
  const cache = options.cache ?? cacheDirectory()
  const onProgress = options.onProgress ?? (() => {})
  const [guestPackages = [], toolPackages = []] = await fetchPackages({
    folder: join(cache, 'apt'),
    suite: recipe.SUITE,
    wanted: [
      { architecture: recipe.GUEST_ARCHITECTURE, names: [...recipe.MACHINE_PACKAGES, ...recipe.GUEST_PACKAGES] },
      { architecture: await hostArchitecture(), names: recipe.TOOL_PACKAGES },
    ],
    follow: (entry) => entry.section === 'libs' || isKernel(entry.name),
    onProgress,
  })
  const hashes = [...guestPackages, ...toolPackages].map((one) => one.sha256)
  // Sorted, because a bundler keeps the order of the text and the language that of the names.
  const texts = JSON.stringify([Object.entries(recipe).sort(), INIT, ROOT_FILES])
  const name = fingerprint(LAYOUT, texts, ...hashes)
  const folder = await folderOnce(join(cache, 'debian', name), async (fresh) => {
    onProgress('unpacking the tools that make the disk')
    const scratch = join(fresh, 'scratch')
    await mkdir(join(scratch, 'tools'), { recursive: true })
    await unpack(toolPackages, join(scratch, 'tools'))
    await makeGuest({
      packages: guestPackages,
      tool: await tools(join(scratch, 'tools')),
      folder: fresh,
      scratch,
      onProgress,
    })
    await rm(scratch, { recursive: true })
  })
  return { ...JSON.parse(await readFile(join(folder, 'guest.json'), 'utf8')), ...paths(folder) }
}

interface Work {
  readonly packages: readonly Package[]
  readonly tool: Tool
  /** Where the guest's files go, and a folder in it for everything that is needed only now. */
  readonly folder: string
  readonly scratch: string
  readonly onProgress: (message: string) => void
}

async function makeGuest({ packages, tool, folder, scratch, onProgress }: Work): Promise<void> {
  const files = paths(folder)
  const parts = join(scratch, 'parts')
  const root = join(scratch, 'root')
  const initrd = join(scratch, 'initrd')

  onProgress('unpacking the kernel')
  const kernel = packages.find((one) => isKernel(one.name) && one.name !== recipe.KERNEL_METAPACKAGE)
  if (kernel === undefined) throw new Error(`${recipe.KERNEL_METAPACKAGE} depends on no kernel`)
  const version = kernel.name.slice('linux-image-'.length)
  await mkdir(parts)
  const kernelParts = recipe.MODULE_FOLDERS.map((name) => `./lib/modules/*/kernel/${name}`)
  await unpackSome(kernel, parts, ['./boot/vmlinuz-*', './lib/modules/*/modules.*', ...kernelParts])
  await unpack(
    packages.filter((one) => recipe.MACHINE_PACKAGES.some((name) => name === one.name && !isKernel(name))),
    parts,
  )
  await indexModules(tool, { folder: parts, version })

  onProgress("filling the guest's root")
  const inRoot = packages.filter(
    (one) => !isKernel(one.name) && !recipe.MACHINE_PACKAGES.some((name) => name === one.name),
  )
  await makeRoot(inRoot, root)
  const modules = { folder: parts, version }
  await installModules(tool, modules, [...recipe.BOOT_MODULES, ...recipe.MORE_MODULES], root)
  await installModules(tool, modules, recipe.BOOT_MODULES, initrd)
  const packed = await readFile(join(parts, 'boot', `vmlinuz-${version}`))
  await writeFile(join(scratch, 'payload.xz'), kernelPayload(packed))
  // The payload's last four bytes are its unpacked size, which is not part of the xz stream.
  await tool('usr/bin/xz', ['-dkq', '--single-stream', join(scratch, 'payload.xz')])
  await writeFile(files.kernel, plainKernel(packed, await readFile(join(scratch, 'payload'))))
  await writeFile(files.initrd, await packInitrd(join(root, 'bin/busybox'), initrd))
  const append = [`root=UUID=${recipe.ROOT_UUID}`, ...recipe.KERNEL_ARGUMENTS]
  await mkdir(join(root, 'boot/grub'))
  await copyFile(files.kernel, join(root, 'boot/vmlinuz'))
  await copyFile(files.initrd, join(root, 'boot/initrd.img'))
  await writeFile(join(root, 'boot/grub/grub.cfg'), grubConfig(append))

  onProgress('making the disk')
  await makeDisk(tool, files.disk, root, await bootArea(tool, parts, 'bios', scratch))
  await writeFile(files.ataBootArea, await bootArea(tool, parts, 'ata', scratch))
  onProgress('making the CD-ROM')
  await makeCd(tool, files.cd, { kernel: files.kernel, initrd: files.initrd, unpacked: parts, scratch })
  const firmware = join(parts, 'usr/share/seabios')
  await copyFile(join(firmware, 'bios.bin'), files.bios)
  await copyFile(join(firmware, 'bios-256k.bin'), files.bios256k)
  await copyFile(join(firmware, 'vgabios-stdvga.bin'), files.vgabios)
  const versions = Object.fromEntries(packages.map((one) => [one.name, one.version]))
  const facts = { append: append.join(' '), kernelVersion: version, versions }
  await writeFile(join(folder, 'guest.json'), JSON.stringify(facts, null, 1))
}

function isKernel(name: string): boolean {
  return name.startsWith('linux-image-')
}

function paths(folder: string) {
  return {
    disk: join(folder, 'disk.img'),
    bios: join(folder, 'bios.bin'),
    bios256k: join(folder, 'bios-256k.bin'),
    vgabios: join(folder, 'vgabios.bin'),
    kernel: join(folder, 'vmlinuz'),
    initrd: join(folder, 'initrd.img'),
    cd: join(folder, 'cd.iso'),
    ataBootArea: join(folder, 'boot-area-ata.bin'),
  }
}
