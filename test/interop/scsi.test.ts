/** sg3-utils at our targets: the programs that people check SCSI devices with send the commands and read the answers. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Memory } from '../../src/block/protocols/memory.ts'
import { cdTarget, diskTarget } from '../devices/scsi/initiator.ts'
import { lacks } from '../tools.ts'
import { type SgHost, sgHost } from './sgio.ts'

const absent = lacks('sg_vpd', 'gcc')

// Exit codes of sg3-utils
const OK = 0
const INVALID_REQUEST = 5
const CONFLICT = 24
const MISCOMPARE = 14
const NOT_READY = 2

describe.skipIf(absent)('a disk', () => {
  let host: SgHost
  let all: Awaited<ReturnType<typeof diskTarget>>

  beforeAll(async () => {
    all = await diskTarget({
      driver: new Memory(64 << 20),
      unit: { serial: 'SER123', wwn: 0x5000c50012345678n, rotationRate: 1 },
      disk: { discardGranularity: 65536, physicalBlockSize: 4096 },
    })
    for (const initiator of [1, 2]) await all.initiator.ready(0, initiator)
    host = await sgHost(all.target)
  })

  afterAll(() => host.close())

  test.each<readonly [string, ...string[]]>([
    ['sg_inq DEVICE', 'SPC-4', 'CmdQue=1', 'Vendor identification: BLOCK86', 'serial number: SER123'],
    ['sg_inq -d DEVICE', 'SAM-5', 'SPC-4', 'SBC-3'],
    [
      'sg_vpd -p di DEVICE',
      '0x5000c50012345678',
      'vendor specific: HARDDISK        SER123',
      'Relative target port: 0x1',
    ],
    ['sg_vpd -p sn DEVICE', 'SER123'],
    ['sg_vpd -p ei DEVICE', 'HEADSUP=1 ORDSUP=1 SIMPSUP=1', 'V_SUP=1', 'LUICLR=1'],
    [
      'sg_vpd -p bl DEVICE',
      'Maximum compare and write length: 128',
      'Maximum unmap block descriptor count: 255',
      'Optimal unmap granularity: 128',
      'Maximum write same length: 0x200000',
    ],
    ['sg_vpd -p bdc DEVICE', 'Non-rotating'],
    ['sg_vpd -p lbpv DEVICE', '(LBPU): 1', '(LBPWS10): 1', '(LBPRZ): 1', 'Threshold exponent: 11', 'thin provisioned'],
    ['sg_modes -a DEVICE', 'DpoFua=1', 'Read-Write error', 'Caching', 'Control', 'Power condition', 'Informational'],
    ['sg_modes -a -6 DEVICE', 'MODE SENSE(6)', 'Rigid disk geometry'],
    ['sg_modes -p 0x1c,2 DEVICE', 'dc 02 00 2c'],
    ['sg_readcap --16 DEVICE', 'lbpme=1, lbprz=1', 'physical block length=4096', 'logical blocks=131072'],
    ['sg_readcap DEVICE', 'Logical block length=512'],
    ['sg_logs -a DEVICE', 'Read error counter', 'Used LBA mapping', 'Self-test results', 'Percentage used endurance'],
    ['sg_luns DEVICE', '1 lun entry', '0000000000000000'],
    ['sg_opcodes DEVICE', 'Read(16)', 'Unmap', 'Compare and write', 'Persistent reserve out', 'Get LBA status'],
    ['sg_opcodes --tmf DEVICE', 'Abort task set', 'Logical unit reset', 'I_T nexus reset'],
    ['sg_opcodes -o 0x93 DEVICE', 'conforming to SCSI standard', '93 09 ff'],
    ['sg_requests DEVICE', 'No additional sense'],
    ['sg_senddiag -t DEVICE', 'GOOD'],
    ['sg_senddiag -l DEVICE', 'Supported diagnostic pages'],
    ['sg_turs DEVICE'],
    ['sg_sync DEVICE'],
    ['sg_sync --16 DEVICE'],
    ['sg_verify --lba=0 --count=100 DEVICE'],
    ['sg_verify --16 --lba=0 --count=100 DEVICE'],
    ['sg_seek --lba=100 DEVICE'],
    ['sg_start DEVICE'],
    ['sg_test_rwbuf --size=4096 DEVICE', 'Success'],
    ['sg_rbuf --quick --echo --size=1024 DEVICE', 'echo buffer capacity=4096'],
    ['sg_reassign --grown DEVICE', 'Elements in grown defect list: 0'],
  ])('%s', async (line, ...words) => {
    const [program, ...args] = line.split(' ')
    const { code, text } = await host.run(program!, ...args)
    expect([code, words.filter((word) => !text.includes(word)), text]).toEqual([OK, [], text])
  })

  test('sg_write_same, sg_unmap and sg_get_lba_status agree on what is mapped', async () => {
    const map = async () =>
      (await host.run('sg_get_lba_status', '--maxlen=1024', '--lba=0', 'DEVICE')).text.match(/LBA: .*/g)
    expect(await map()).toEqual([expect.stringMatching(/0x0+ +blocks: +131072 +deallocated/)])
    const data = ['--in=/dev/zero', '--lba=256', '--num=256', 'DEVICE']
    expect((await host.run('sg_write_same', '--ff', '--lba=256', '--num=256', 'DEVICE')).code).toBe(OK)
    expect(await map()).toEqual([
      expect.stringMatching(/blocks: +256 +deallocated/),
      expect.stringMatching(/0x0+100 +blocks: +256 +mapped/),
      expect.stringMatching(/deallocated/),
    ])
    expect((await host.run('sg_unmap', '--force', '--lba=256', '--num=128', 'DEVICE')).code).toBe(OK)
    expect((await map())?.[1]).toMatch(/0x0+180 +blocks: +128 +mapped/)
    expect((await host.run('sg_write_same', '--unmap', ...data)).code).toBe(OK)
    expect((await host.run('sg_write_same', '--10', '--unmap', ...data)).code).toBe(OK)
    expect((await map())?.length).toBe(1)
  })

  test('sg_persist: a cluster of two nodes fences one another', async () => {
    const node = (initiator: number, ...args: readonly string[]) => host.as(initiator, 'sg_persist', ...args, 'DEVICE')
    expect((await node(1, '--out', '--register', '--param-sark=0xaaa')).code).toBe(OK)
    expect((await node(2, '--out', '--register', '--param-sark=0xbbb')).code).toBe(OK)
    expect((await node(1, '-k')).text).toMatch(/0xaaa\s+0xbbb/)
    expect((await node(1, '--out', '--reserve', '--param-rk=0xaaa', '--prout-type=5')).code).toBe(OK)
    expect((await node(2, '-r')).text).toMatch(/Key=0xaaa\s+scope: LU_SCOPE, +type: Write Exclusive, registrants only/)
    expect((await node(2, '--out', '--reserve', '--param-rk=0xbbb', '--prout-type=5')).code).toBe(CONFLICT)
    expect((await node(1, '-s')).text).toMatch(/Reservation holder[\s\S]*SCSI address: 0x1[\s\S]*Key=0xbbb/)
    expect((await node(1, '-c')).text).toMatch(/\(PTPL_C\): 0[\s\S]*Write Exclusive: 1/)
    expect(
      (await node(1, '--out', '--register', '--param-aptpl', '--param-rk=0xaaa', '--param-sark=0xaaa')).code,
    ).not.toBe(OK)
    const fence = ['--out', '--preempt-abort', '--param-rk=0xbbb', '--param-sark=0xaaa', '--prout-type=5']
    expect((await node(2, ...fence)).code).toBe(OK)
    const fenced = await all.initiator.send('2a 00 00 00 00 00 00 00 01', { initiator: 1, out: new Uint8Array(512) })
    expect(fenced).toMatchObject({ status: 2, sense: '06/2a/05' })
    expect((await all.initiator.send('2a 00 00 00 00 00 00 00 01', { initiator: 1 })).status).toBe(0x18)
    expect((await node(2, '--out', '--release', '--param-rk=0xbbb', '--prout-type=5')).code).toBe(OK)
    expect((await node(2, '--out', '--clear', '--param-rk=0xbbb')).code).toBe(OK)
    expect((await node(2, '-k')).text).toContain('NO registered reservation keys')
  })

  test('sg_compare_and_write and sg_verify see a difference', async () => {
    const atLba = '--lba=8'
    const zeroes = ['--in=/dev/zero', atLba]
    expect((await host.run('sg_compare_and_write', ...zeroes, '--num=2', 'DEVICE')).code).toBe(OK)
    expect((await host.run('sg_write_same', '--ff', atLba, '--num=1', 'DEVICE')).code).toBe(OK)
    expect((await host.run('sg_compare_and_write', ...zeroes, '--num=2', 'DEVICE')).code).toBe(MISCOMPARE)
    const verify = ['--bpc=1', '--count=1', '--ebytchk=1', '--ndo=512', ...zeroes, 'DEVICE']
    expect((await host.run('sg_verify', ...verify)).code).toBe(MISCOMPARE)
  })

  test('sg_wr_mode turns the write cache off, and sg_modes shows it', async () => {
    const contents = `--contents=${['88', '12', ...new Array<string>(18).fill('00')].join(',')}`
    expect((await host.run('sg_wr_mode', '-p', '8', contents, 'DEVICE')).code).toBe(OK)
    expect(all.disk.writeCache).toBe(false)
    expect((await host.run('sg_modes', '-p', '8', 'DEVICE')).text).toMatch(/88 12 00/)
  })

  test('sg_sanitize and sg_format do what they say, and wait for it', async () => {
    expect((await host.run('sg_write_same', '--ff', '--lba=0', '--num=16', 'DEVICE')).code).toBe(OK)
    expect((await host.run('sg_sanitize', '--block', '--quick', '--wait', 'DEVICE')).code).toBe(OK)
    expect((await all.initiator.send('28 00 00 00 00 00 00 00 01')).data[0]).toBe(0)
    expect(
      (await host.run('sg_sanitize', '--overwrite', '--zero', '--count=2', '--quick', '--wait', 'DEVICE')).code,
    ).toBe(OK)
    expect((await host.run('sg_sanitize', '--crypto', '--quick', 'DEVICE')).code).not.toBe(OK)
    expect((await host.run('sg_format', '--format', '--quick', '--wait', 'DEVICE')).code).toBe(OK)
  }, 60_000)

  test('sg_reset: the next command is told of it, and what is missing is told as missing', async () => {
    expect((await host.run('sg_reset', '--bus', 'DEVICE')).code).toBe(OK)
    expect(await all.initiator.send('00')).toMatchObject({ sense: '06/29/02' })
    expect((await host.run('sg_stpg', '--active', 'DEVICE')).code).toBe(INVALID_REQUEST)
  })
})

describe.skipIf(absent)('a CD-ROM', () => {
  let host: SgHost
  let all: Awaited<ReturnType<typeof cdTarget>>

  beforeAll(async () => {
    all = await cdTarget({ unit: { serial: 'CD1' } })
    host = await sgHost(all.target)
  })

  afterAll(() => host.close())

  test.each<readonly [string, ...string[]]>([
    ['sg_inq DEVICE', 'cd/dvd', 'RMB=1', 'CD-ROM'],
    ['sg_get_config DEVICE', 'CD-ROM', 'Random readable', 'CD read', 'Drive serial number'],
    ['sg_modes -a DEVICE', 'medium type=0x01', 'MM capabilities', '8e 0e 04'],
    ['sg_readcap DEVICE', 'Logical block length=2048', 'Number of logical blocks=64'],
    ['sg_opcodes DEVICE', 'Read TOC', 'Get configuration', 'Read CD'],
    ['sg_logs -a DEVICE', 'Read error counter'],
  ])('%s', async (line, ...words) => {
    const [program, ...args] = line.split(' ')
    const { code, text } = await host.run(program!, ...args)
    expect([code, words.filter((word) => !text.includes(word)), text]).toEqual([OK, [], text])
  })

  test('sg_raw reads the table of contents; sg_prevent and sg_start move the tray', async () => {
    expect(
      (await host.run('sg_raw', '-r', '20', 'DEVICE', '43', '0', '0', '0', '0', '0', '0', '0', '14', '0')).text,
    ).toMatch(/00 12 01 01/)
    expect((await host.run('sg_prevent', '--prevent=1', 'DEVICE')).code).toBe(OK)
    expect((await host.run('sg_start', '--eject', 'DEVICE')).code).not.toBe(OK)
    expect((await host.run('sg_prevent', '--allow', 'DEVICE')).code).toBe(OK)
    expect((await host.run('sg_start', '--eject', 'DEVICE')).code).toBe(OK)
    expect([all.unit.trayOpen, (await host.run('sg_turs', 'DEVICE')).code]).toEqual([true, NOT_READY])
    expect((await host.run('sg_start', '--load', 'DEVICE')).code).toBe(OK)
    expect(all.unit.trayOpen).toBe(false)
  })
})
