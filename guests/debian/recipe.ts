/** What the Debian guest is made of. A change of anything here makes a new guest. */

/** The last release with 32-bit kernels. */
export const SUITE = 'bookworm'

export const GUEST_ARCHITECTURE = 'i386'

/** A name whose only dependency is the newest kernel for a processor without PAE. */
export const KERNEL_METAPACKAGE = 'linux-image-686'

/** Packages whose files make the guest's root; the libraries that they need come along. */
export const GUEST_PACKAGES = [
  'bash',
  'busybox-static',
  'dash',
  'e2fsprogs',
  'eject',
  'fdisk',
  'fio',
  'hdparm',
  'kmod',
  'mount',
  'sg3-utils',
  'smartmontools',
  'util-linux',
] as const

/** Packages that give files to the machine and to the boot loader, none to the guest's root. */
export const MACHINE_PACKAGES = ['grub-pc-bin', KERNEL_METAPACKAGE, 'seabios'] as const

/** Packages whose programs make the disk on the host: run out of the cache, never installed. */
export const TOOL_PACKAGES = ['e2fsprogs', 'grub-common', 'kmod', 'libc6', 'xorriso', 'xz-utils'] as const

/** Folders of the packages that nobody reads in the guest. */
export const LEFT_OUT = [
  'etc/cron.d',
  'etc/cron.daily',
  'etc/logrotate.d',
  'lib/systemd',
  'lib/udev',
  'usr/lib/systemd',
  'usr/lib/udev',
  'usr/share/bash-completion',
  'usr/share/bug',
  'usr/share/debianutils',
  'usr/share/doc',
  'usr/share/doc-base',
  'usr/share/info',
  'usr/share/lintian',
  'usr/share/locale',
  'usr/share/man',
  'usr/share/menu',
  'usr/share/pixmaps',
] as const

/** Where in the kernel's package the modules below and their dependencies are; the rest is not even unpacked. */
export const MODULE_FOLDERS = [
  'arch',
  'block',
  'crypto',
  'drivers/ata',
  'drivers/block',
  'drivers/cdrom',
  'drivers/scsi',
  'drivers/virtio',
  'fs/configfs',
  'fs/ext4',
  'fs/fat',
  'fs/isofs',
  'fs/jbd2',
  'fs/mbcache.ko',
  'fs/nls',
  'lib',
] as const

/** Modules that are loaded before there is a root, by name as in `modules.dep`. */
export const BOOT_MODULES = [
  'ata_generic',
  'ata_piix',
  'crc32c_generic',
  'crct10dif_generic',
  'ext4',
  'isofs',
  'pata_oldpiix',
  'sd_mod',
  'sr_mod',
  'sym53c8xx',
  'virtio_blk',
  'virtio_pci',
] as const

/** Modules that the root has besides. */
export const MORE_MODULES = ['brd', 'loop', 'null_blk', 'nls_ascii', 'nls_cp437', 'nls_utf8', 'sg', 'vfat'] as const

/** Size of the disk in bytes, and where its one partition begins. */
export const DISK_BYTES = 512 * 1024 * 1024
export const PARTITION_BYTES = 1024 * 1024

/** Fixed identities, so that two builds of the same packages are the same disk. */
export const ROOT_UUID = '86b10c86-0000-4000-8000-000000000001'
export const HASH_SEED = '86b10c86-0000-4000-8000-000000000002'
export const DISK_SIGNATURE = 0x86b10c86

/**
 * The kernel command line: the console on the serial port, and nothing that only costs time under emulation: tests of
 * ciphers, the search for ISA cards, what tracing prepares. Without the certificates, modules are loaded unverified.
 */
export const KERNEL_ARGUMENTS = [
  'console=ttyS0',
  'tsc=reliable',
  'mitigations=off',
  'random.trust_cpu=on',
  'nowatchdog',
  'nomodeset',
  'noisapnp',
  'ipv6.disable=1',
  'cryptomgr.notests',
  'initcall_blacklist=load_system_certificate_list,crypto_kdf108_init,init_encrypted,init_kprobe_trace,init_blk_tracer',
] as const

/** What the guest prints once, before its first prompt, and what its prompt begins with. */
export const READY_MARK = 'BLOCK86-GUEST-READY'
export const PROMPT = 'root@block86:'
