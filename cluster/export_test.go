package cluster

// DecodeState is decodeState.
func DecodeState(b []byte, cluster string) (Member, error) { return decodeState(b, cluster) }

// Kill ends the gossip without telling anybody.
func (m *Membership) Kill() {
	m.left.Do(func() {
		m.end()
		m.done.Wait()
		_ = m.list.Shutdown()
	})
}
