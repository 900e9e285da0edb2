/** Choosing kernel modules by name, with everything that they depend on. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Tool } from './tools.ts'

const SIGNATURE_MARK = '~Module signature appended~\n'
/** `struct module_signature`, whose last word is the signature's length. */
const SIGNATURE_INFO_BYTES = 12
const WORD = 4

/** A kernel's modules as unpacked: `folder` holds `lib/modules/<version>`. */
export interface ModuleTree {
  readonly folder: string
  readonly version: string
}

/**
 * The modules named and what they depend on, dependencies first, as paths relative to `lib/modules/<version>`; `dep` is
 * the text of `modules.dep`. Throws for a name that the kernel does not have.
 */
export function moduleClosure(dep: string, names: readonly string[]): string[] {
  const needs = new Map<string, string[]>()
  const paths = new Map<string, string>()
  for (const line of dep.split('\n')) {
    const [path, rest] = line.split(':')
    if (!path || rest === undefined) continue
    needs.set(path, rest.trim().split(' ').filter(Boolean))
    paths.set(moduleName(path), path)
  }
  const chosen = new Set<string>()
  const choose = (path: string): void => {
    if (chosen.has(path)) return
    for (const need of needs.get(path) ?? []) choose(need)
    chosen.add(path)
  }
  for (const name of names) {
    const path = paths.get(name)
    if (path === undefined) throw new Error(`The kernel has no module ${name}`)
    choose(path)
  }
  return [...chosen]
}

/** A module's name as the kernel spells it: no folder, no suffix, `_` for `-`. */
export function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\..*)?$/, '')
    .replaceAll('-', '_')
}

/** Copies the modules and their dependencies below `target` and indexes them there. */
export async function installModules(
  tool: Tool,
  from: ModuleTree,
  names: readonly string[],
  target: string,
): Promise<string[]> {
  const place = join('lib/modules', from.version)
  const chosen = moduleClosure(await readFile(join(from.folder, place, 'modules.dep'), 'utf8'), names)
  for (const path of [...chosen, 'modules.builtin', 'modules.order']) {
    await mkdir(dirname(join(target, place, path)), { recursive: true })
    await writeFile(join(target, place, path), withoutSignature(await readFile(join(from.folder, place, path))))
  }
  await indexModules(tool, { folder: target, version: from.version })
  return chosen
}

/**
 * A module without the signature behind it, if there is one: a kernel under emulation spends more instructions on
 * checking what it loads than on everything else it does before the first shell. [linux] kernel/module_signature.h
 */
export function withoutSignature(module: Buffer): Buffer {
  const mark = module.length - SIGNATURE_MARK.length
  if (module.toString('latin1', mark) !== SIGNATURE_MARK) return module
  return module.subarray(0, mark - SIGNATURE_INFO_BYTES - module.readUInt32BE(mark - WORD))
}

/** Writes `modules.dep` and the other indexes of a tree. */
export async function indexModules(tool: Tool, tree: ModuleTree): Promise<void> {
  await tool('sbin/depmod', ['-b', tree.folder, tree.version])
}
