/** Operating registers of the LSI53C895A and their bits, by the names of its technical manual, chapter 4. */

export const SCNTL0 = 0x00
export const SCNTL0_TRG = 1 << 0 // target role
export const SCNTL0_AAP = 1 << 1 // assert SATN/ on parity error
export const SCNTL0_WATN = 1 << 4 // select with SATN/
export const SCNTL0_START = 1 << 5 // start sequence
export const SCNTL0_ARB = 3 << 6 // arbitration mode: 0 simple, 3 full with selection or reselection
export const SCNTL1 = 0x01
export const SCNTL1_IARB = 1 << 1 // immediate arbitration
export const SCNTL1_RST = 1 << 3 // assert SRST/
export const SCNTL1_CON = 1 << 4 // connected
export const SCNTL1_ADB = 1 << 6 // assert SODL on the data lines
export const SCNTL2 = 0x02
export const SCNTL2_WSR = 1 << 0 // wide SCSI receive
export const SCNTL2_SDU = 1 << 7 // disconnect unexpected
export const SCNTL3 = 0x03
export const SCID = 0x04
export const SCID_RRE = 1 << 6 // respond to reselection
export const SXFER = 0x05
export const SDID = 0x06
export const GPREG0 = 0x07
export const SFBR = 0x08 // first byte received
export const SOCL = 0x09
export const SOCL_REQ = 1 << 7
export const SOCL_ACK = 1 << 6
export const SOCL_BSY = 1 << 5
export const SOCL_SEL = 1 << 4
export const SOCL_ATN = 1 << 3
export const SOCL_PHASE = 7 // MSG, C_D and I_O
export const SSID = 0x0a
export const SSID_VAL = 1 << 7
export const SBCL = 0x0b
export const DSTAT = 0x0c
export const DSTAT_IID = 1 << 0 // illegal instruction detected
export const DSTAT_SIR = 1 << 2 // SCRIPTS interrupt instruction
export const DSTAT_SSI = 1 << 3 // single step
export const DSTAT_ABRT = 1 << 4 // aborted
export const DSTAT_BF = 1 << 5 // bus fault
export const DSTAT_DFE = 1 << 7 // DMA FIFO empty
export const SSTAT0 = 0x0d
export const SSTAT0_RST = 1 << 1
export const SSTAT0_WOA = 1 << 2 // won arbitration
export const SSTAT0_LOA = 1 << 3 // lost arbitration
export const SSTAT0_AIP = 1 << 4 // arbitration in progress
export const SSTAT0_ILF = 1 << 7 // SIDL full
export const SSTAT1 = 0x0e
export const SSTAT2 = 0x0f
export const SSTAT2_LDSC = 1 << 1 // last disconnect
export const DSA = 0x10
export const ISTAT0 = 0x14
export const ISTAT0_DIP = 1 << 0 // DMA interrupt pending
export const ISTAT0_SIP = 1 << 1 // SCSI interrupt pending
export const ISTAT0_INTF = 1 << 2 // interrupt on the fly
export const ISTAT0_CON = 1 << 3 // connected
export const ISTAT0_SEM = 1 << 4 // semaphore
export const ISTAT0_SIGP = 1 << 5 // signal process
export const ISTAT0_SRST = 1 << 6 // software reset
export const ISTAT0_ABRT = 1 << 7 // abort operation
export const ISTAT1 = 0x15
export const ISTAT1_SI = 1 << 0 // SYNC_IRQD: no further interrupts at the pin
export const ISTAT1_SRUN = 1 << 1 // SCRIPTS running
export const MBOX0 = 0x16
export const CTEST0 = 0x18
export const CTEST1 = 0x19
export const CTEST1_FMT = 0xf0 // all byte lanes of the DMA FIFO are empty
export const CTEST2 = 0x1a
export const CTEST2_DACK = 1 << 0
export const CTEST2_CM = 1 << 4 // configured as memory
export const CTEST2_CIO = 1 << 5 // configured as I/O
export const CTEST2_SIGP = 1 << 6
export const CTEST3 = 0x1b
export const CTEST3_CLF = 1 << 2 // clear DMA FIFO
export const CTEST3_FLF = 1 << 3 // flush DMA FIFO
export const TEMP = 0x1c
export const DFIFO = 0x20
export const CTEST4 = 0x21
export const CTEST5 = 0x22
export const CTEST6 = 0x23
export const DBC = 0x24
export const DCMD = 0x27
export const DNAD = 0x28
export const DSP = 0x2c
export const DSPS = 0x30
export const SCRATCHA = 0x34
export const DMODE = 0x38
export const DMODE_MAN = 1 << 0 // manual start mode
export const DIEN = 0x39
export const SBR = 0x3a
export const DCNTL = 0x3b
export const DCNTL_IRQD = 1 << 1 // INTA/ disable
export const DCNTL_STD = 1 << 2 // start DMA operation
export const DCNTL_SSM = 1 << 4 // single step mode
export const ADDER = 0x3c
export const SIEN0 = 0x40
export const SIEN1 = 0x41
export const SIST0 = 0x42
export const SIST0_RST = 1 << 1
export const SIST0_UDC = 1 << 2 // unexpected disconnect
export const SIST0_SGE = 1 << 3 // SCSI gross error
export const SIST0_RSL = 1 << 4 // reselected
export const SIST0_SEL = 1 << 5 // selected
export const SIST0_CMP = 1 << 6 // function complete
export const SIST0_MA = 1 << 7 // phase mismatch
export const SIST1 = 0x43
export const SIST1_HTH = 1 << 0 // handshake-to-handshake timer expired
export const SIST1_GEN = 1 << 1 // general purpose timer expired
export const SIST1_STO = 1 << 2 // selection or reselection time-out
export const SLPAR = 0x44
export const MACNTL = 0x46
export const GPCNTL0 = 0x47
export const STIME0 = 0x48
export const STIME1 = 0x49
export const STIME1_GEN = 0x0f
export const RESPID0 = 0x4a
export const RESPID1 = 0x4b
export const STEST0 = 0x4c
export const STEST1 = 0x4d
export const STEST2 = 0x4e
export const STEST2_LOW = 1 << 0 // low level mode
export const STEST2_SLB = 1 << 4 // loopback
export const STEST2_SCE = 1 << 7 // SOCL and SODL drive all lines whatever the role
export const STEST3 = 0x4f
export const STEST3_CSF = 1 << 1 // clear SCSI FIFO
export const SIDL = 0x50
export const STEST4 = 0x52
export const STEST4_LOCK = 1 << 5 // the frequency doubler has locked
export const STEST4_SE = 0x80 // bus mode: single-ended
export const SODL = 0x54
export const CCNTL0 = 0x56
export const CCNTL0_ENNDJ = 1 << 5 // jump on nondata phase mismatches too
export const CCNTL0_PMJCTL = 1 << 6 // choose the address by direction
export const CCNTL0_ENPMJ = 1 << 7 // enable phase mismatch jump
export const CCNTL1 = 0x57
export const CCNTL1_EN64DBMV = 1 << 0 // 64-bit direct block move
export const CCNTL1_EN64TIBMV = 1 << 1 // 64-bit table indirect block move
export const CCNTL1_64TIMOD = 1 << 2 // index mode 1: the table has address bits 39:32
export const CCNTL1_DDAC = 1 << 3 // disable dual address cycles
export const SBDL = 0x58
export const SCRATCHB = 0x5c
export const SCRATCHC = 0x60 // up to SCRATCHR at 9Ch
export const MMRS = 0xa0 // memory move read selector
export const MMWS = 0xa4 // memory move write selector
export const SFS = 0xa8 // SCRIPTS fetch selector
export const DRS = 0xac // DSA relative selector
export const SBMS = 0xb0 // static block move selector
export const DBMS = 0xb4 // dynamic block move selector
export const DNAD64 = 0xb8
export const PMJAD1 = 0xc0
export const PMJAD2 = 0xc4
export const RBC = 0xc8 // remaining byte count
export const UA = 0xcc // updated address
export const ESA = 0xd0 // entry storage address
export const IA = 0xd4 // instruction address
export const SBC = 0xd8 // SCSI byte count, 24 bits
export const CSBC = 0xdc // cumulative SCSI byte count

/** DMA interrupts, which always stop SCRIPTS. */
export const DSTAT_INTERRUPTS = 0x7f
/** SCSI interrupts that stop SCRIPTS even when they are masked (chapter 2, "Fatal vs. nonfatal interrupts"). */
export const SIST0_FATAL = 0xff & ~(SIST0_CMP | SIST0_SEL | SIST0_RSL)
export const SIST1_FATAL = SIST1_STO

/** SCSI phases: MSG, C_D and I_O, as SBCL, SSTAT1 and SCRIPTS instructions have them. */
export const PHASE_DATA_OUT = 0
export const PHASE_DATA_IN = 1
export const PHASE_COMMAND = 2
export const PHASE_STATUS = 3
export const PHASE_MSG_OUT = 6
export const PHASE_MSG_IN = 7

/** Registers that keep what is written; of the others writes go nowhere or have an effect of their own. */
export const PLAIN_REGISTERS: readonly (readonly [number, number])[] = [
  [SCNTL2, SCNTL3],
  [SCID, SFBR],
  [DSA, DSA + 3],
  [MBOX0, MBOX0 + 1],
  [CTEST0, CTEST0],
  [TEMP, TEMP + 3],
  [CTEST4, CTEST6],
  [DBC, DSPS + 3],
  [SCRATCHA, SBR],
  [ADDER, SIEN1],
  [SLPAR, SLPAR],
  [GPCNTL0, RESPID1],
  [STEST0, STEST3],
  [SODL, CCNTL1],
  [SCRATCHB, DBMS + 3],
  [DNAD64, CSBC + 3],
]

/** Dwords below SCRATCHC that keep what is written and do nothing else; from there on all are so. */
export const QUIET_REGISTERS: readonly number[] = [DSA, TEMP, DNAD, DSPS, SCRATCHA, SCRATCHB]
