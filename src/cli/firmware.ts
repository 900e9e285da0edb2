/** Where a BIOS is found. */
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { BlockError } from '../block/error.ts'

export interface Firmware {
  readonly bios: string
  readonly vgabios: string
}

const VGA_NAMES = ['vgabios-stdvga.bin', 'vgabios.bin']
/** Where packages of SeaBIOS put it: Debian and Fedora, and QEMU's own. */
const PACKAGES = ['/usr/share/seabios', '/usr/share/qemu', '/usr/local/share/qemu']

/** The BIOS that `bios` names, or that of a package or of a guest built here; the VGA BIOS beside it. */
export function findFirmware(bios?: string): Firmware {
  if (bios !== undefined) {
    if (!existsSync(bios)) throw new BlockError('ENOENT', `Cannot open BIOS ${bios}: there is no such file`)
    return { bios, vgabios: vgabiosIn([path.dirname(bios), ...folders()]) }
  }
  for (const folder of folders()) {
    const found = path.join(folder, 'bios.bin')
    if (existsSync(found)) return { bios: found, vgabios: vgabiosIn([folder, ...folders()]) }
  }
  throw new BlockError(
    'ENOENT',
    'Cannot find a BIOS: install the package seabios, or name one with -bios FILE (a SeaBIOS, with its vgabios-stdvga.bin beside it)',
  )
}

function vgabiosIn(places: readonly string[]): string {
  for (const folder of places) {
    for (const name of VGA_NAMES) {
      const found = path.join(folder, name)
      if (existsSync(found)) return found
    }
  }
  throw new BlockError(
    'ENOENT',
    `Cannot find a VGA BIOS: put SeaBIOS's ${VGA_NAMES[0]} beside the BIOS, or install the package seabios`,
  )
}

function folders(): string[] {
  return [...PACKAGES, ...guestFolders()]
}

/** Guests that `npm start` has built. */
function guestFolders(): string[] {
  const cache = process.env.BLOCK86_CACHE ?? path.join(packageFolder(), '.cache')
  const guests = path.join(cache, 'debian')
  if (!existsSync(guests)) return []
  return readdirSync(guests).map((name) => path.join(guests, name))
}

function packageFolder(): string {
  let folder = path.dirname(fileURLToPath(import.meta.url))
  while (!existsSync(path.join(folder, 'package.json')) && path.dirname(folder) !== folder)
    folder = path.dirname(folder)
  return folder
}
