/** The initial RAM disk: busybox, the modules that lead to a root, and the script that finds it. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type CpioEntry, cpio } from './cpio.ts'
import { PROMPT, READY_MARK } from './recipe.ts'

/** Applets that the script and its shell find under their own names. */
const APPLETS = [
  'cat',
  'findfs',
  'ls',
  'modprobe',
  'mount',
  'poweroff',
  'reboot',
  'sh',
  'switch_root',
  'umount',
  'usleep',
]

const FSTAB = `dev /dev devtmpfs defaults 0 0
proc /proc proc defaults 0 0
sys /sys sysfs defaults 0 0
`

/**
 * What runs first. Virtio drivers come first and alone, since probing two ATA channels takes longer than booting from
 * virtio; the rest comes when that showed no root. It starts as few programs as it can, for each costs an emulated
 * machine a tenth of a second. Kernel arguments: `root=` (UUID=, LABEL= or a device; `root=cd` is a shell beside the
 * mounted CD-ROM), `ro`, `rootwait=` (seconds), and `drivers=a,b`: exactly these, instead of what the PCI devices ask for.
 */
export const INIT = `#!/bin/sh
export PATH=/bin
mount -a

root= access=rw patience=60 drivers=
read -r line < /proc/cmdline
for word in $line; do
  case $word in
    root=*) root=\${word#root=} ;;
    rootwait=*) patience=\${word#rootwait=} ;;
    drivers=*) drivers=\${word#drivers=} ;;
    ro) access=ro ;;
  esac
done
last=sd_mod
[ "$root" = cd ] && last='sr_mod isofs'

aliases() {
  found=
  for file in /sys/bus/pci/devices/*/modalias; do
    read -r alias < $file
    case $alias in $1) found="$found $alias" ;; esac
  done
}

find_root() {
  set -- /sys/class/block/*
  [ -e "$1" ] || return
  case $root in
    cd) device=/dev/sr0 ;;
    *=*) device=$(findfs $root 2> /dev/null) ;;
    *) device=$root ;;
  esac
  [ -b "$device" ]
}

if [ -n "$drivers" ]; then
  IFS=,
  set -- $drivers
  unset IFS
  modprobe -a -q crc32c_generic ext4 "$@" $last
else
  aliases 'pci:v00001AF4*'
  [ -n "$found" ] && found="$found virtio_blk"
  modprobe -a -q crc32c_generic ext4 $found
  if ! find_root; then
    aliases 'pci:*'
    modprobe -a -q $found $last
  fi
fi

tries=$((patience * 20))
until find_root; do
  tries=$((tries - 1))
  if [ $tries -le 0 ]; then
    echo "No root $root after $patience s. Block devices: $(ls /sys/class/block)"
    exec sh
  fi
  usleep 50000
done

if [ "$root" = cd ]; then
  mount -t iso9660 -o ro $device /cdrom
  read -r up rest < /proc/uptime
  export PS1='${PROMPT}\\w# '
  echo "${READY_MARK} root=$device up=$up"
  exec setsid cttyhack sh
fi
mount -t ext4 -o $access $device /root
mount --move /dev /root/dev
exec switch_root /root /sbin/init
`

/**
 * Packs the initial RAM disk. `busybox` is the statically linked program, `modules` a folder that holds
 * `lib/modules/<version>` as `installModules` left it.
 */
export async function packInitrd(busybox: string, modules: string): Promise<Buffer> {
  const entries: CpioEntry[] = []
  for (const path of ['bin', 'cdrom', 'dev', 'etc', 'proc', 'root', 'sbin', 'sys'])
    entries.push({ kind: 'folder', path })
  entries.push(
    { kind: 'character', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'file', path: 'init', data: INIT, executable: true },
    { kind: 'file', path: 'etc/fstab', data: FSTAB },
    { kind: 'file', path: 'bin/busybox', data: await readFile(busybox), executable: true },
    // Where the kernel looks for it when one module asks for another.
    { kind: 'link', path: 'sbin/modprobe', target: '../bin/busybox' },
  )
  for (const name of APPLETS) entries.push({ kind: 'link', path: `bin/${name}`, target: 'busybox' })
  await addTree(entries, modules, 'lib')
  // Not compressed: reading it whole costs an emulated machine less than unpacking it.
  return cpio(entries)
}

async function addTree(entries: CpioEntry[], folder: string, path: string): Promise<void> {
  entries.push({ kind: 'folder', path })
  const children = await readdir(join(folder, path), { withFileTypes: true })
  for (const child of children.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const inner = `${path}/${child.name}`
    if (child.isDirectory()) await addTree(entries, folder, inner)
    else if (!inner.endsWith('.bin')) {
      entries.push({ kind: 'file', path: inner, data: await readFile(join(folder, inner)) })
    }
  }
}
