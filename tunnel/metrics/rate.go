package metrics

import "kiloport/tunnel"

var (
	rate          = describe("rate_bytes_per_second", "The rate at which packets leave at most, as the line counts them; 0 is no limit.")
	rateBound     = describe("rate_bound_bytes_per_second", "The bounds of a rate that is found, min and max, and base, where it goes without load.", "bound")
	rateArrived   = describe("rate_arrived_bytes_per_second", "At what rate packets arrived when the rate was decided last, counted as the rate is.")
	rateDelay     = describe("rate_delay_seconds", "How much longer than at best packets took when the rate was decided last.")
	rateLoss      = describe("rate_loss_ratio", "The share of packets that were lost or marked when the rate was decided last.")
	rateDecisions = describe("rate_decisions_total", "Decisions on the rate, the same one again included, by reason.", "reason")
)

// rates are at what rate packets leave and, if that is found, on what grounds.
func (e emitter) rates(s *tunnel.Status) {
	e.gauge(rate, perSecond(s.BandwidthBitS))
	a := s.Autorate
	if a == nil {
		return
	}
	e.gauge(rateBound, perSecond(a.Min), "min")
	e.gauge(rateBound, perSecond(a.Base), "base")
	e.gauge(rateBound, perSecond(a.Max), "max")
	e.gauge(rateArrived, perSecond(a.Achieved))
	e.gauge(rateLoss, a.LossPercent/100)
	if a.DelayMs != nil {
		e.gauge(rateDelay, *a.DelayMs/1000)
	}
	for reason, n := range a.Decisions {
		e.counter(rateDecisions, n, reason)
	}
}

// perSecond is a rate in bytes, which Prometheus wants.
func perSecond(bits int64) float64 { return float64(bits) / 8 }
