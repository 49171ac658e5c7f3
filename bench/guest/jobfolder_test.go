package guest

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestJobFoldersOfTheDeadAreRemoved(t *testing.T) {
	base := t.TempDir()
	living, remove, err := newJobFolder(base, &job{})
	must(t, err)
	defer remove()
	dead := filepath.Join(base, jobPrefix+"dead")
	foreign := filepath.Join(base, jobPrefix+"without-owner")
	must(t, os.Mkdir(dead, 0o755))
	must(t, os.WriteFile(filepath.Join(dead, ownerName), nil, 0o600))
	must(t, os.Mkdir(foreign, 0o755))
	sweepJobs(base, time.Now())
	if !there(dead) {
		t.Error("a folder was removed before its host could lock it")
	}
	sweepJobs(base, time.Now().Add(2*youth))
	if there(dead) {
		t.Error("the folder of a dead host is left")
	}
	if !there(filepath.Join(living, jobName)) {
		t.Error("the folder of a living host was removed")
	}
	if !there(foreign) {
		t.Error("a folder was removed that is no job's")
	}
	remove()
	if there(living) {
		t.Error("a job's folder outlived the job")
	}
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
