package cluster

import (
	"io"
	"log/slog"
)

// NewGossipLog is newGossipLog.
func NewGossipLog(to *slog.Logger) io.Writer { return newGossipLog(to) }

// DecodeState is decodeState.
func DecodeState(b []byte, cluster string) (Member, error) { return decodeState(b, cluster) }

// Place is place.
func Place(lane uint64, members []Member, replicas int) []string {
	return place(lane, members, replicas)
}

// Gives is gives.
func Gives(self Member, begun bool, other Member) bool { return gives(self, begun, other) }

// Kill ends the gossip without telling anybody.
func (m *Membership) Kill() {
	m.left.Do(func() {
		m.end()
		m.done.Wait()
		_ = m.list.Shutdown()
	})
}
