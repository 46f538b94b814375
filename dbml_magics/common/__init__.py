"""What everything else may lean on: settings, disks, the words of messages, secrets."""
