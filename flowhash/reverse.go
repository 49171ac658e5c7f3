package flowhash

// Reverse is the key of the flow that answers this one: the addresses, and the
// ports if there are any, change places. What tells other flows apart is taken to
// be the same both ways, which is true of echoes and not of security associations.
func (k *Key) Reverse() Key {
	r := *k
	copy(r.b[keySource:keyDestination], k.b[keyDestination:keyID])
	copy(r.b[keyDestination:keyID], k.b[keySource:keyDestination])
	if k.Kind() == KindPorts {
		copy(r.b[keyID:], k.b[keyID+2:keyID+4])
		copy(r.b[keyID+2:], k.b[keyID:keyID+2])
	}
	return r
}
