"""The stations of a cohort, meeting through the files of a run folder; the command line only calls these.

    study.yaml → audit.json → splits.json → bundle/ → predictions.csv → metrics.json, probes.json, shift.json
                                                  ↘ heatmaps/ → boxes.csv, localization.json, trust.json
                                                                                           ↘ report.html

One file for each command. Each station reads what an earlier one left, so each can be run again alone.
"""
