/** create, info, check, map, compare, resize and snapshot print and do what qemu-img's do. */
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { afterAll, describe, expect, test } from 'vitest'
import { lacks, temporaryFolder } from '../tools.ts'
import { normal, ours, scenario, theirs } from './img-golden.ts'

const io = (format: string, name: string, ...commands: readonly string[]) =>
  `qemu-io -f ${format} ${commands.map((command) => `-c '${command}'`).join(' ')} ${name} > /dev/null`

const folder = temporaryFolder()
afterAll(() => folder.remove())

const INPUTS = [
  'qemu-img create -q -f qcow2 a.qcow2 4M',
  io('qcow2', 'a.qcow2', 'write -P 1 64k 256k', 'write -z 512k 64k', 'write -c -P 3 1M 64k'),
  'qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2 6M',
  io('qcow2', 'o.qcow2', 'write -P 2 128k 64k', 'write -z 192k 64k', 'write -P 4 2M 64k'),
  'qemu-img create -q -f raw a.raw 4M',
  io('raw', 'a.raw', 'write -P 1 64k 256k', 'write -P 3 1M 64k'),
  'qemu-img create -q -f qed e.qed 10M',
  io('qed', 'e.qed', 'write -P 1 64k 256k'),
  'qemu-img create -q -f qcow c.qcow 10M',
  io('qcow', 'c.qcow', 'write -P 1 64k 256k'),
].join('\n')

describe.skipIf(lacks('qemu-img', 'qemu-io', 'qemu-nbd'))('img', () => {
  scenario({
    title: 'create: formats and options',
    given: 'qemu-img create -q -f raw b 1M; qemu-img create -q -f qcow2 bq 1M; mkdir d; qemu-img create -q d/b 2M',
    run: [
      'create -f qcow2 a.qcow2 1M',
      'create a.raw 1M',
      'create -f raw odd 700',
      'create -f qcow2 odd.qcow2 700',
      'create -f raw f 1.5k',
      'create -f raw x 0x400',
      'create -q -f qcow2 q 10G',
      'create -f qcow2 -b bq -F qcow2 o1',
      'create -f qcow2 -b bq -F qcow2 o2 2M',
      'create -f qcow2 -b d/b -F raw o3',
      'create -f qcow2 -b b -F raw d/o4',
      'create -f qcow2 -u -b nope -F raw o5 1M',
      'create -f qcow2 -o cluster_size=4k,compat=0.10,lazy_refcounts=off old 1.5G',
      'create -f qcow2 -o size=1M,compat=v3,backing_file=b,backing_fmt=raw,lazy_refcounts=on,refcount_bits=8,extended_l2=on,compression_type=zstd,cluster_size=128k all',
      'create -f qcow2 -o cluster_size=64k -o refcount_bits=1 two 1M',
      'create -f qcow2 -o data_file=dd,data_file_raw=on ext 1M',
      'create -f qcow2 -o preallocation=metadata p1 1M',
      'create -f qcow2 -o preallocation=full p2 1M',
      'create -f qcow2 -o preallocation=falloc p3 1M',
      'create -f raw -o preallocation=full p4 1M',
      'create -f raw -o preallocation=falloc p5 1M',
      'create -f raw -o size=3M s3',
      'create -f qed e.qed 10M',
      'create -f qed -b b -F raw -o table_size=2,cluster_size=4096 e2.qed',
      'create -f qcow c.qcow 10M',
      'create -f qcow -b b -F raw c2.qcow',
      'create --object secret,id=s,data=x -f qcow2 sec 1M',
    ],
    placed: false,
    except: ['d', 'o5'],
  })
  scenario({
    title: 'create: what cannot be',
    given: 'qemu-img create -q -f raw b 1M',
    run: [
      'create',
      'create x',
      'create -f nope x 1M',
      'create -f qcow2 x -5',
      'create -f qcow2 x 1x',
      'create -f qcow2 x 9E',
      'create -f qcow2 x 7E',
      'create x 1M 2M',
      'create -f qcow2 -o foo=1 x 1M',
      'create -f qcow2 -o , x 1M',
      'create -f qcow2 -o size x',
      'create -f qcow2 -o cluster_size=3 x 1M',
      'create -f qcow2 -o cluster_size=zz x 1M',
      'create -f qcow2 -o compat=foo x 1M',
      'create -f qcow2 -o refcount_bits=3 x 1M',
      'create -f qcow2 -o lazy_refcounts=maybe x 1M',
      'create -f qcow2 -o compression_type=foo x 1M',
      'create -f qcow2 -o preallocation=foo x 1M',
      'create -f raw -o preallocation=foo x 1M',
      'create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M',
      'create -f qcow2 -o compat=0.10,refcount_bits=8 x 1M',
      'create -f qcow2 -o compat=0.10,extended_l2=on x 1M',
      'create -f qcow2 -o compat=0.10,compression_type=zstd x 1M',
      'create -f qcow2 -o extended_l2=on,cluster_size=4k x 1M',
      'create -f qcow2 -o data_file_raw=on x 1M',
      'create -f qcow2 -o cluster_size=512 x 1T',
      'create -f raw -o size=3M x 1M',
      'create -f raw -b b -F raw x 1M',
      'create -f qcow2 -F raw x 1M',
      'create -f qcow2 -b b x',
      'create -f qcow2 -b nope -F raw x 1M',
      'create -f qcow2 -b x -F raw x 1M',
      "create -f qcow2 -b '' -F raw x 1M",
      'create -f qcow2 -b b -F foo x 1M',
      'create -f qcow2 /nope/x 1M',
      'create -f qcow2 foo:x 1M',
      'create -f qed -o cluster_size=3k x 1M',
      'create -f qed -o table_size=3 x 1M',
      'create -f qcow x 0',
      'create -f qcow2 --object foo,id=s x 1M',
      'create --foo x 1M',
      'create -f',
      '? create -f qcow2 -o encryption=on x 1M',
    ],
    except: ['x'],
  })
  scenario({
    title: 'create: -o help',
    run: [
      'create -f qcow2 -o help',
      'create -f raw -o help',
      'create -f qed -o help',
      'create -f qcow -o help',
      'create -f qcow2 -o cluster_size=4k,help xx',
      'create -f raw -o ? xx',
      'create -f foo -o help',
    ],
  })
  scenario({
    title: 'info',
    given: `${INPUTS}
      qemu-img create -q -f raw odd 700
      qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k old 1G
      qemu-img create -q -f qcow2 -o data_file=dd,data_file_raw=on ext 1M
      qemu-img bitmap --add a.qcow2 b0; qemu-img bitmap --add --disable -g 128k a.qcow2 b1
      qemu-img snapshot -c s1 a.qcow2; qemu-img snapshot -c 'a long name of a snapshot' a.qcow2
      mkdir d; cp a.qcow2 a.raw d; (cd d; qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 o; qemu-img create -q -f qed -b a.raw -F raw e)
      qemu-img create -q -f qcow2 -u -b l2 -F qcow2 l1 1M; qemu-img create -q -f qcow2 -u -b l1 -F qcow2 l2 1M
      qemu-img create -q -f qcow2 -u -b nope -F qcow2 lost 1M`,
    run: [
      ...['a.qcow2', 'o.qcow2', 'a.raw', 'e.qed', 'c.qcow', 'odd', 'old', 'ext', 'd/o', 'd/e', 'lost'].flatMap(
        (name) => [`info ${name}`, `info --output=json ${name}`],
      ),
      'info --backing-chain o.qcow2',
      'info --backing-chain --output=json d/o',
      'info --backing-chain l1',
      'info --backing-chain lost',
      'info -f raw a.qcow2',
      'info -f qcow2 a.raw',
      'info -f nope a.raw',
      'info -U a.qcow2',
      'info nope',
      'info .',
      'info',
      'info a b',
      'info --output=xml a.raw',
      'info --image-opts driver=qcow2,file.driver=file,file.filename=a.qcow2',
      'info --image-opts driver=qcow2,file.filename=a.qcow2',
      'info --image-opts a.qcow2',
      'info --image-opts -f raw driver=raw,file.filename=a.raw',
      'info --object secret,id=s,data=x a.raw',
      '? info --object throttle-group,id=t,x-iops-total=1000 --image-opts driver=throttle,throttle-group=t,file.driver=qcow2,file.file.filename=a.qcow2',
      'map --output=json --object throttle-group,id=t --image-opts driver=throttle,throttle-group=t,file.driver=raw,file.file.filename=a.raw',
      'compare --object throttle-group,id=t --image-opts driver=throttle,throttle-group=t,file.driver=raw,file.file.filename=a.raw driver=qcow2,file.filename=a.qcow2',
      'info --image-opts driver=throttle,throttle-group=t,file.driver=raw,file.file.filename=a.raw',
      'info --foo a.raw',
      'info foo:bar',
    ],
  })
  scenario({
    title: 'map',
    given: `${INPUTS}
      qemu-img create -q -f qcow2 -o preallocation=metadata p.qcow2 4M; ${io('qcow2', 'p.qcow2', 'write -P 1 100k 64k')}`,
    run: [
      ...['a.qcow2', 'o.qcow2', 'a.raw', 'e.qed', 'c.qcow', 'p.qcow2'].flatMap((name) => [
        `map ${name}`,
        `map --output=json ${name}`,
      ]),
      'map --output=json -s 64k -l 100k o.qcow2',
      'map --output=json --start-offset=1M --max-length=3M a.qcow2',
      'map -f raw a.qcow2',
      'map --output=x a.raw',
      'map -s x a.raw',
      'map',
      'map nope',
      'map --image-opts --output=json driver=qcow2,file.filename=a.qcow2',
    ],
  })
  scenario({
    title: 'compare',
    given: `${INPUTS}
      cp a.raw b.raw; qemu-io -f raw -c 'write -P 9 70000 1' b.raw >/dev/null
      cp a.raw l.raw; qemu-img resize -q -f raw l.raw 5M
      cp l.raw m.raw; qemu-io -f raw -c 'write -P 9 4500000 1' m.raw >/dev/null`,
    run: [
      'compare a.qcow2 a.qcow2',
      'compare a.qcow2 a.raw',
      'compare a.qcow2 o.qcow2',
      'compare -s a.qcow2 o.qcow2',
      'compare -s a.qcow2 a.raw',
      'compare a.raw b.raw',
      'compare a.raw l.raw',
      'compare l.raw a.raw',
      'compare -s a.raw l.raw',
      'compare a.raw m.raw',
      'compare -q a.raw b.raw',
      'compare -q a.raw a.qcow2',
      'compare -f raw -F qcow2 a.raw a.qcow2',
      'compare -f qcow2 a.raw a.qcow2',
      'compare a.raw nope',
      'compare a.raw',
      'compare a b c',
      'compare --foo a b',
      'compare -T foo a.raw b.raw',
      'compare e.qed c.qcow',
    ],
  })
  scenario({
    title: 'check',
    given: `${INPUTS}
      qemu-img snapshot -c s1 a.qcow2
      for each in leak bad both; do cp a.qcow2 $each.qcow2; done
      block=$((0x20000)); put() { printf "$3" | dd of=$1 bs=1 seek=$2 conv=notrunc status=none; }
      put leak.qcow2 $((block + 2 * 8)) '\\000\\003'
      put bad.qcow2 $((block + 2 * 6)) '\\000\\001'
      put both.qcow2 $((block + 2 * 8)) '\\000\\003'; put both.qcow2 $((block + 2 * 6)) '\\000\\001'
      cp leak.qcow2 leak2.qcow2; cp a.qcow2 nomagic.qcow2; put nomagic.qcow2 0 XFI`,
    run: [
      ...['a.qcow2', 'o.qcow2', 'a.raw', 'e.qed', 'c.qcow', 'leak.qcow2', 'bad.qcow2', 'both.qcow2'].flatMap((name) => [
        `check ${name}`,
        `check --output=json ${name}`,
      ]),
      'check -q leak.qcow2',
      'check -r leaks leak.qcow2',
      'check leak.qcow2',
      'check -r all --output=json leak2.qcow2',
      'check -r all a.qcow2',
      'check -r all both.qcow2',
      'check -r all bad.qcow2',
      'check both.qcow2',
      'check bad.qcow2',
      'check -f qcow2 nomagic.qcow2',
      'check nope',
      'check',
      'check -r foo a.qcow2',
      'check --output=foo a.qcow2',
      'check -T foo a.qcow2',
      'check -U -r all a.qcow2',
    ],
    placed: false,
    except: ['nomagic.qcow2'],
  })
  scenario({
    title: 'resize',
    given: INPUTS,
    run: [
      'resize -f raw a.raw 5M',
      'resize -f raw a.raw +1M',
      'resize -f raw a.raw -1M',
      'resize -f raw --shrink a.raw -1M',
      'resize --shrink -f raw a.raw 1M',
      'resize a.raw 2M',
      'resize a.qcow2 +1M',
      'resize --preallocation=full a.qcow2 +1M',
      'resize --preallocation=metadata a.qcow2 +1M',
      'resize --preallocation=falloc a.qcow2 +1M',
      'resize a.qcow2 1M',
      'resize --shrink a.qcow2 1M',
      'resize a.qcow2 x',
      'resize a.qcow2',
      'resize',
      'resize -q a.qcow2 3M',
      'resize a.qcow2 3M',
      'resize a.qcow2 -100M',
      'resize --preallocation=foo a.qcow2 +1M',
      'resize --preallocation=full -f raw a.raw +1M',
      'resize --preallocation=falloc -f raw a.raw +1M',
      'resize --preallocation=metadata -f raw a.raw +1M',
      'resize --preallocation=full --shrink -f raw a.raw 1M',
      'resize e.qed 5M',
      'resize --shrink e.qed 5M',
      'resize e.qed 20M',
      'resize c.qcow 20M',
      'resize nope 20M',
      'resize --image-opts driver=raw,file.filename=a.raw +1M',
    ],
    placed: false,
  })
  scenario({
    title: 'snapshot',
    given: INPUTS,
    run: [
      'snapshot a.qcow2',
      'snapshot -c s1 a.qcow2',
      'snapshot -l a.qcow2',
      'snapshot a.qcow2',
      'snapshot -c s2 a.qcow2',
      'snapshot -c s1 a.qcow2',
      'snapshot -l a.qcow2',
      'snapshot -d s9 a.qcow2',
      'snapshot -d 3 a.qcow2',
      'snapshot -a s9 a.qcow2',
      'snapshot -a s1 a.qcow2',
      'snapshot -a 3 a.qcow2',
      'snapshot -d s1 a.qcow2',
      'snapshot -l a.qcow2',
      'snapshot -c x a.raw',
      'snapshot -l a.raw',
      '? snapshot -a x a.raw',
      'snapshot -d x a.raw',
      'snapshot -l -c x a.raw',
      'snapshot -l nope',
      'snapshot',
      'snapshot -U -c x a.qcow2',
      'snapshot -U -l a.qcow2',
      'snapshot -c x e.qed',
    ],
    placed: false,
  })
  scenario({
    title: 'the command line itself',
    run: ['foo', '', '--foo', '-x'].map((line) => line),
  })

  test.each(['vmdk', 'vdi', 'vpc', 'vhdx', 'parallels', 'luks'])(
    '%s is refused by name, not taken for raw',
    async (format) => {
      const name = folder.file(`image.${format}`)
      const secret = format === 'luks' ? ['--object', 'secret,id=s,data=x', '-o', 'key-secret=s,iter-time=10'] : []
      expect(theirs(['create', '-q', '-f', format, ...secret, name, '1M'], folder.path).err).toBe('')
      for (const line of [
        ['info', name],
        ['convert', name, folder.file('out')],
        ['check', name],
      ]) {
        const { err, status } = await ours(line)
        expect(status).toBe(1)
        expect(err).toContain(`Could not open '${name}': `)
        expect(err).toContain(`'${format}' is not supported`)
      }
    },
  )

  test('an NBD export is told about, mapped and copied as qemu-img does', async () => {
    const [image, socket, pid] = [folder.file('export.raw'), folder.file('socket'), folder.file('pid')]
    spawnSync('qemu-img', ['create', '-q', image, '8M'])
    spawnSync('qemu-io', ['-f', 'raw', '-c', 'write -P 1 1M 64k', image])
    spawnSync('qemu-nbd', ['-f', 'raw', '-t', '-e', '4', '-k', socket, '--fork', '--pid-file', pid, image])
    try {
      const uri = `nbd+unix:///?socket=${socket}`
      for (const args of [
        ['info', uri],
        ['info', '--output=json', uri],
        ['info', '-f', 'raw', `nbd:unix:${socket}`],
        ['info', '--image-opts', `driver=nbd,path=${socket}`],
        ['info', '--image-opts', `driver=raw,file.driver=nbd,file.path=${socket}`],
        ['map', '--output=json', uri],
        ['compare', '-f', 'raw', uri, uri],
        ['convert', '-n', '-f', 'raw', '-O', 'raw', uri, uri],
        ['measure', '-O', 'qcow2', uri],
      ]) {
        const wanted = theirs(args, folder.path)
        const got = await ours(args)
        expect({ args, status: got.status, out: normal(got.out), err: normal(got.err) }).toEqual({
          args,
          status: wanted.status,
          out: normal(wanted.out),
          err: normal(wanted.err),
        })
      }
      expect(await ours(['convert', '-O', 'qcow2', uri, folder.file('copy')])).toEqual({ out: '', err: '', status: 0 })
      const same = theirs(['compare', '-f', 'raw', '-F', 'qcow2', image, folder.file('copy')], folder.path)
      expect(same.out).toBe('Images are identical.\n')
    } finally {
      process.kill(Number(readFileSync(pid, 'utf8')))
    }
  })

  test('an encrypted qcow2 image is refused by name', async () => {
    const name = folder.file('secret.qcow2')
    const options = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10'
    theirs(['create', '-q', '-f', 'qcow2', '--object', 'secret,id=s,data=x', '-o', options, name, '1M'], folder.path)
    const { err, status } = await ours(['convert', name, folder.file('out')])
    expect(status).toBe(1)
    expect(err).toContain('encrypted (LUKS)')
  })

  test('an image that another program writes to is left alone, with the same words', async () => {
    const [held, other] = [folder.file('held.qcow2'), folder.file('other.raw')]
    theirs(['create', '-q', '-f', 'qcow2', held, '1M'], folder.path)
    theirs(['create', '-q', '-f', 'raw', other, '1M'], folder.path)
    const holder = spawn('qemu-io', ['-f', 'qcow2', held], { stdio: ['pipe', 'pipe', 'ignore'] })
    try {
      await new Promise((resolve) => {
        holder.stdout.on('data', (text: Buffer) => text.includes('qemu-io>') && resolve(undefined))
        holder.stdin.write('write 0 512\n')
      })
      for (const args of [
        ['info', held],
        ['info', '-U', held],
        ['map', held],
        ['resize', held, '2M'],
        ['check', '-r', 'all', held],
        ['snapshot', '-c', 'x', held],
        ['create', '-f', 'qcow2', held, '1M'],
        ['convert', '-f', 'raw', '-O', 'qcow2', other, held],
        ['convert', '-n', '-f', 'raw', '-O', 'qcow2', other, held],
        ['dd', '-f', 'raw', '-O', 'qcow2', `if=${other}`, `of=${held}`],
        ['rebase', '-u', '-b', '', held],
        ['compare', held, other],
        ['amend', '-o', 'compat=1.1', held],
        ['commit', held],
        ['bitmap', '--add', held, 'x'],
        ['measure', '-O', 'qcow2', held],
      ]) {
        const wanted = theirs(args, folder.path)
        const got = await ours(args)
        expect({ args, status: got.status, out: normal(got.out), err: normal(got.err) }).toEqual({
          args,
          status: wanted.status,
          out: normal(wanted.out),
          err: normal(wanted.err),
        })
      }
    } finally {
      holder.stdin.end()
      await new Promise((resolve) => holder.once('close', resolve))
    }
    expect(spawnSync('qemu-img', ['check', held]).status).toBe(0)
  })
})
