package portpool

// SendAcross sends each message from the socket at the same place in from, in
// order, and never blocks. What is left to do for the caller is in each
// message's N and Err, as after [Socket.Send]; sent counts those that went out
// wholly. A full or closed socket does not hold up the others.
//
// It is best when the messages of one socket follow each other, and better than
// a Send for each socket where there are few for each. from may hold sockets
// that are not of the pool.
func (p *Pool) SendAcross(from []Socket, ms []Message) (sent int) {
	for len(ms) > 0 {
		n := 1
		for n < len(ms) && from[n] == from[0] {
			n++
		}
		k, _ := from[0].Send(ms[:n])
		sent += k
		from, ms = from[n:], ms[n:]
	}
	return sent
}
