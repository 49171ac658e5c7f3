// Package noise holds WireGuard version 1 as pure state machines: the
// handshake (Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s), the two MACs and the
// cookies that protect it, the transport keys, replay windows, lane counters
// and the timers. It opens no socket, starts no goroutine and reads no clock:
// randomness and time are arguments, monotonic time as int64 nanoseconds
// where 0 means "never".
//
// Where to start: [NewStatic] makes our identity and [NewRemote] a peer's.
// One side calls [Initiate] and [Handshake.OpenResponse], the other
// [OpenInitiation], [Incoming.Accept] and [Incoming.Respond]; [AddMACs] goes
// over each message before it is sent, [Static.CheckMAC1] before it is looked
// at. Both end with a [Keypair], whose [Keypair.SealInPlace] and
// [Keypair.OpenInPlace] carry the packets. [Timers] says when to do what.
//
// The protocol is that of "WireGuard: Next Generation Kernel Network Tunnel"
// (Donenfeld, 2017; section numbers below are of that paper) over the Noise
// Protocol Framework, revision 34.
//
// The pattern is written out here over X25519, BLAKE2s and ChaCha20-Poly1305
// rather than driven through a general Noise library, for three reasons: every
// key that the handshake makes is zeroed when it has been used; the peer, and
// with it the preshared key, becomes known only in the middle of the first
// message; and the transport seals in place without allocating. The tests hold
// it against flynn/noise and wireguard-go.
//
// # Limits
//
// Zeroing reaches the copies on the heap that this package knows of, those
// inside the AEADs and inside crypto/ecdh included. It cannot reach copies
// that the compiler or the libraries spilled to goroutine stacks or registers,
// nor memory that the system has swapped out. The MAC and cookie keys are left
// to the garbage collector: they follow from public keys, or guard two minutes
// against flooding and no traffic.
//
// Unless its comment says so, a type here is for one goroutine at a time.
package noise
