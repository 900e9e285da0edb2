/** The guest's root folder: Debian's files, and the few of ours that start a shell on the serial port. */
import { chmod, lstat, mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Package, unpack } from '../packages.ts'
import { LEFT_OUT, READY_MARK } from './recipe.ts'

const MERGED = ['bin', 'lib', 'sbin'] as const

/** Loads what the initial RAM disk did not need; like that, it starts as few programs as it can. */
const RC = `#!/bin/busybox sh
mkdir /dev/pts /dev/shm
mount -a
echo block86 > /proc/sys/kernel/hostname
drivers= found=
read -r line < /proc/cmdline
for word in $line; do
  case $word in drivers=*) drivers=\${word#drivers=} ;; esac
done
if [ -z "$drivers" ]; then
  for file in /sys/bus/pci/devices/*/modalias; do
    read -r alias < $file
    found="$found $alias"
  done
  modprobe -a -q $found
fi
set -- /sys/class/scsi_host/*
if [ -e "$1" ]; then modprobe -a -q sd_mod sr_mod sg; fi
`

const PROFILE = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=\${TERM:-vt220} LANG=C
PS1='\\u@\\h:\\w# '
cd
if [ ! -e /run/ready ]; then
  : > /run/ready
  read -r up rest < /proc/uptime
  while read -r device folder kind rest; do
    if [ "$folder" = / ]; then echo "${READY_MARK} root=$device up=$up"; fi
  done < /proc/mounts
fi
`

/** The files of ours, by path; those in `etc/init.d` are executable. */
export const ROOT_FILES: Readonly<Record<string, string>> = {
  'etc/fstab': `proc /proc proc defaults 0 0
sys /sys sysfs defaults 0 0
run /run tmpfs defaults 0 0
tmp /tmp tmpfs defaults 0 0
devpts /dev/pts devpts defaults 0 0
shm /dev/shm tmpfs defaults 0 0
`,
  'etc/group': 'root:x:0:\ntty:x:5:\ndisk:x:6:\nnogroup:x:65534:\n',
  'etc/hostname': 'block86\n',
  'etc/hosts': '127.0.0.1 localhost block86\n',
  'etc/init.d/rcS': RC,
  'etc/inittab': `::sysinit:/etc/init.d/rcS
ttyS0::respawn:-/bin/bash
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
`,
  // Bracketed paste would put escape sequences between a prompt and its answer.
  'etc/inputrc': 'set enable-bracketed-paste off\n',
  'etc/nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files\n',
  'etc/passwd': 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/bin/false\n',
  'etc/profile': PROFILE,
}

/** Fills `root` with the packages' files and the guest's configuration. */
export async function makeRoot(packages: readonly Package[], root: string): Promise<void> {
  for (const name of MERGED) {
    await mkdir(join(root, 'usr', name), { recursive: true })
    await symlink(`usr/${name}`, join(root, name))
  }
  await unpack(packages, root)
  for (const path of LEFT_OUT) await rm(join(root, path), { recursive: true, force: true })
  for (const path of ['boot', 'cdrom', 'dev', 'etc/init.d', 'mnt', 'proc', 'root', 'run', 'sys', 'tmp', 'var/tmp']) {
    await mkdir(join(root, path), { recursive: true })
  }
  for (const [path, text] of Object.entries(ROOT_FILES)) {
    await writeFile(join(root, path), text)
    await chmod(join(root, path), path.startsWith('etc/init.d/') ? 0o755 : 0o644)
  }
  await symlink('/proc/self/mounts', join(root, 'etc/mtab'))
  await linkApplets(root)
}

/** Links every applet of busybox whose name no Debian program has taken. */
async function linkApplets(root: string): Promise<void> {
  const names = appletNames(await readFile(join(root, 'bin/busybox')))
  const taken = new Set<string>()
  for (const folder of ['usr/bin', 'usr/sbin']) for (const name of await readdir(join(root, folder))) taken.add(name)
  for (const name of names) {
    if (!taken.has(name)) await symlink('busybox', join(root, 'usr/bin', name))
  }
  // The kernel's first program, wherever it looks.
  await rm(join(root, 'usr/bin/init'))
  await symlink('../bin/busybox', join(root, 'usr/sbin/init'))
}

/** The names of the applets in a busybox program: its table of them, each name ended by a zero. */
export function appletNames(program: Buffer): string[] {
  const start = program.indexOf('[\0[[\0', 0, 'latin1')
  const end = program.indexOf('\0\0', start, 'latin1')
  if (start < 0 || end < 0) throw new Error('busybox has no table of applets where it was looked for')
  return program.toString('latin1', start, end).split('\0')
}

/** The paths of everything below `root`, absolute inside it, folders before what they hold, in a fixed order. */
export async function treePaths(root: string, path = ''): Promise<string[]> {
  const paths: string[] = []
  for (const name of (await readdir(join(root, path))).sort()) {
    const inner = `${path}/${name}`
    paths.push(inner)
    if ((await lstat(join(root, inner))).isDirectory()) paths.push(...(await treePaths(root, inner)))
  }
  return paths
}
