package engine

import "context"

// AwaitChange waits until some lane publishes.
func (n *Node) AwaitChange(ctx context.Context) error {
	l := n.lanes[0]
	l.progress.mu.Lock()
	changed := l.progress.changed
	l.progress.mu.Unlock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
