/** Programs of Debian packages for the host, run out of the folder where they were unpacked. */
import { existsSync } from 'node:fs'
import { readdir, readlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { type RunOptions, run } from '../command.ts'

/** Runs one of the unpacked programs, named by its path below the folder. */
export type Tool = (program: string, args: readonly string[], options?: RunOptions) => Promise<string>

/**
 * Gives the means to run what was unpacked into `folder`. Each program runs under the C library that came with it, so
 * it matters neither which release the host is nor what is installed there.
 */
export async function tools(folder: string): Promise<Tool> {
  const libraries: string[] = []
  let loader: string | undefined
  for (const place of ['lib64', 'lib', 'usr/lib']) {
    const parent = join(folder, place)
    if (!existsSync(parent)) continue
    for (const name of await readdir(parent)) {
      if (/^ld(64|-linux.*)\.so\.\d+$/.test(name)) loader ??= join(parent, name)
      if (/-linux-gnu/.test(name)) libraries.push(join(parent, name))
    }
  }
  const interpreter = loader
  if (interpreter === undefined) throw new Error(`No program loader below ${folder}: libc6 has moved it`)
  return async (program, args, options = {}) => {
    // A program of many names is an absolute link, which would lead out of the folder: kmod as /sbin/depmod.
    const link = await readlink(join(folder, program)).catch(() => `/${program}`)
    const target = resolve('/', dirname(program), link)
    const start = ['--library-path', libraries.join(':'), '--argv0', program, join(folder, target)]
    return run(interpreter, [...start, ...args], {
      ...options,
      env: { MKE2FS_CONFIG: join(folder, 'etc/mke2fs.conf'), ...options.env },
    })
  }
}
