"""The lab: experiments that kill real workers and judge the recorded history."""
