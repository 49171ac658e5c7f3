package main

import "github.com/spf13/cobra"

func init() { register(newMeasuring) }

// newMeasuring is a chapter of the help, not a command.
func newMeasuring() *cobra.Command {
	return &cobra.Command{Use: "measuring", Short: "What to know before you believe a figure", Long: measuring}
}

const measuring = `What is measured

A sparse flow, a datagram of 100 bytes every 20 ms (10 to 30: each is up to 10 ms
late, at random), crosses the tunnel beside a load that fills the line. The figure
is what the load adds to its round trip: the idle path's round trip, taken before
the load, is subtracted. Probes begin 2 s before the load, because one that starts
into a full queue gets its first packet through when all is over, and then measures
silence. The first 2 s of the load are left out of figures, not of plots. Bulk flows
begin within the first of them, each at a random moment.

Rates count whole Ethernet frames without preamble and checksum, as HTB and cake
do. Of 1514 bytes, TCP with timestamps over IPv6 carries 1428: goodput is at most
0.943 of the rate, less the acknowledgements of what flows the other way. A tunnel
takes its own headers off that.

Virtual time

The lab kernel is a whole Linux kernel that runs as a process (User-Mode Linux).
Its clock stands still while anything runs, and when all sleep it jumps to the
next timer. So

  - the processor costs nothing: a daemon that takes 1 ms for a packet looks like
    one that takes none. How much a tunnel carries, what that costs, and what it
    does when there is too much, cannot be seen there. Measure that in real time:
    bench run throughput overload.
  - what else the machine does changes nothing but how long you wait. A second of
    20 Mbit/s both ways takes one to three.
  - timers are exact, there is one processor, and links have no errors. A figure
    of 0.6 ms is the line's, not a machine's.
  - nothing is left to chance but what is drawn with a seed: in the lab kernel that
    decides the moments at which flows begin, and all that the kernel and programs
    draw – ports, addresses, keys, hashes. So the same command makes the same report,
    to the last digit, as often as one likes and whatever the machine is busy with,
    if the programs in it are the same. Repetitions have the seeds 1, 2, 3 and so on.
    What other chance would have made of it --seed 101 tells, or --seed 0, which
    draws one; the report has it.
  - a program that waits for time to pass without sleeping stops the clock for
    ever. bench ends a guest that has been silent for two minutes, and tries again.

Traps

  - A packet keeps the hash of its flow (skb->hash) when it crosses a veth. Kernel
    WireGuard keeps that of the flow inside, so a gateway in another namespace of
    the same kernel would tell flows apart that no real one can. The gateways here
    forget it at their doors, by a BPF program.
  - Segmentation offloads let a queue see bundles of packets instead of packets,
    UDP's too. They are off at the gateways and next to them; the longest packet
    that a gateway saw is in the report (1514 bytes, or something is wrong). Between
    hosts and their ends of a tunnel they are on, as machines have them, so that a
    tunnel gets from TCP, and gives it, what it does on a machine.
  - A shaper saves up some of its rate while it has nothing to send. Tunnels of
    one queue, which is empty at times and full at others, wait the less for it:
    kernel WireGuard at 20 Mbit/s 20 to 28 ms with the 10 ms that are usual here, and
    28 to 44 ms with tc's own 1600 bytes (--burst 640us). Flows with queues of their
    own do not care. The burst is part of the path in every report.
  - TCP flows that share one queue are chaotic: with another seed the same experiment
    gives medians that differ by a third. Repeat it, and look at the range. Flows with
    queues of their own repeat within a few percent.
  - At 100 Mbit/s one queue has two states: in half of the runs or more the probe waits
    8 to 14 ms, in the others 15 to 34, and a median of five is of the one that came more
    often. Five more, with other seeds, may be of the other. bench compare then says
    that the two agree, because its interval holds both states, 20 ms apart: that is
    all that five runs can say, and more do not make it narrow while both states are
    there. Look at the range, and at how many runs are in which.
  - Every flow may share one of fq_codel's 1024 queues with another by chance,
    without a tunnel, too. In one run of a hundred the probe does, with a TCP flow
    (4 each way), and waits 3 to 8 ms in it. A median over runs does not feel that,
    a range does.
  - What is exact keeps step: probes that beat once in a round trip, or by timers that
    are late until something else happens, which here is a gateway that lets the next
    packet go, all find the queue in the same moment of its cycle. At 100 Mbit/s half
    of them waited 0.06 ms, half 0.18, a packet more, and none anything between. So a
    probe is up to 10 ms late, at random, and then exact.
  - Every scenario is done 5 times (bench run --help). With 5 repetitions or more on
    each side, bench compare says of a difference whether it is one, or whether the
    two agree: chance alone has medians as far apart. With fewer, what it promises
    does not hold, and it says that it cannot be told. It takes repetitions for
    independent, which those with the same seed are not. Of a hundred figures that
    do not differ it calls up to five different: look at the one that was asked.
  - Hosts have an MTU of 1500 and tunnels less: the first full segments of a flow
    are lost to the discovery of that, and sent again. So retransmits exceed what
    the gateways dropped, by some 30, through every tunnel.
  - In real time a machine is noisy and the tunnels share it. They take turns,
    repetition by repetition: ratios within a repetition say more than figures.
`
