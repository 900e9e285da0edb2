/** A raw disk with one ext4 partition, filled from a folder without mounting anything and without root. */
import { open, truncate, writeFile } from 'node:fs/promises'
import { DISK_BYTES, HASH_SEED, PARTITION_BYTES, ROOT_UUID } from './recipe.ts'
import { treePaths } from './rootfs.ts'
import type { Tool } from './tools.ts'

const KIB = 1024

/** Makes `disk` from the folder `root`; `area` is what goes before the partition. */
export async function makeDisk(tool: Tool, disk: string, root: string, area: Uint8Array): Promise<void> {
  await writeFile(disk, '')
  await truncate(disk, DISK_BYTES)
  // Lazy initialization would let the guest's kernel write in the background of every measurement.
  const extended = `offset=${PARTITION_BYTES},hash_seed=${HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0`
  await tool(
    'sbin/mke2fs',
    [
      ...['-q', '-t', 'ext4', '-b', '4096', '-m', '0', '-L', 'block86', '-U', ROOT_UUID],
      ...['-E', extended, '-d', root, disk, `${(DISK_BYTES - PARTITION_BYTES) / KIB}k`],
    ],
    { env: { E2FSPROGS_FAKE_TIME: '1' } },
  )
  await giveToRoot(tool, disk, root)
  const file = await open(disk, 'r+')
  try {
    await file.write(area, 0, area.length, 0)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Makes root the owner of everything, and every time the same: the folder's files are those of whoever builds. */
async function giveToRoot(tool: Tool, disk: string, root: string): Promise<void> {
  const commands: string[] = []
  for (const path of ['/', '/lost+found', ...(await treePaths(root))]) {
    for (const [field, value] of INODE_FIELDS) commands.push(`set_inode_field "${path}" ${field} ${value}`)
  }
  const script = `${commands.join('\n')}\n`
  await tool('sbin/debugfs', ['-w', '-f', '-', `${disk}?offset=${PARTITION_BYTES}`], {
    input: script,
    env: { E2FSPROGS_FAKE_TIME: '1' },
  })
}

const INODE_FIELDS = [
  ['uid', '0'],
  ['gid', '0'],
  ...['atime', 'ctime', 'mtime', 'crtime'].map((field) => [field, '@1'] as const),
] as const
