package containerd

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/testsuite"
)

// TestContainerdsOwnSuite runs what containerd asks of every content store.
func TestContainerdsOwnSuite(t *testing.T) {
	testsuite.ContentSuite(t, "larder", func(_ context.Context, _ string) (context.Context, content.Store, func() error, error) {
		w := writable(t)
		return w.Context, w.Store, func() error { return nil }, nil
	})
}
