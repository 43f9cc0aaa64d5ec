"""The backup of each night, made now, and what it writes to a storage that speaks S3."""

import json

from around import deployment, ended, namespace, of_program
from clients import command
from installation import SMALLER, all_ready, apply, overlay
from kube import inside, kubectl, objects, until
from report import report

PLACE = "s3://backups/carillon"


def backup(folder):
    """One minute: the CronJob's Job makes a backup and reads it; the next one removes nothing that is to be kept."""
    namespace("storage-of-backups")
    image = of_program("gofakes3", "-backend=memory", "-initialbucket=backups", "-host=0.0.0.0:443")
    deployment("s3", "storage-of-backups", {"image": image, "ports": [{"name": "s3", "containerPort": 443}]})
    given = {
        "PLACE": PLACE,
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_REGION": "lab",
        "AWS_ENDPOINT_URL": "http://s3.storage-of-backups:443",
        "AWS_ALLOW_HTTP": "true",
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "carillon-backup", "namespace": "carillon"}, "stringData": given}
    inside("kubectl", "apply", "-f", "-", given=json.dumps(secret))
    apply(overlay(folder / "backed-up", "production", ["backup"], SMALLER))
    all_ready(600)
    command("sender", "send", "alice", "alice", "before the backup", user="alice")
    for number in (1, 2):
        name = f"backup-{number}"
        kubectl("delete", "job", name, "--ignore-not-found")
        kubectl("create", "job", name, "--from=cronjob/carillon-backup")
        well = ended(name)
        made = kubectl("logs", f"job/{name}", "-c", "create", check=False).strip()
        read = kubectl("logs", f"job/{name}", "-c", "verify", check=False).strip()
        report.check("the Job makes a backup and reads it back", well, f"{made[-250:]} | {read[-250:]}")
